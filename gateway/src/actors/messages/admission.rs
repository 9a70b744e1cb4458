//! Messages to the actor that passes the questions of new boxes on to the directory.

use actix::Message;
use selvedge_fabric::directory::GatewayKey;
use selvedge_fabric::link::{JoinAnswer, JoinQuestion};

/// A new box, authenticated by this key, asks to join the site.
#[derive(Debug, Message)]
#[rtype(result = "JoinDecision")]
pub struct AskToJoin {
    pub asked: JoinQuestion,
    pub key: GatewayKey,
}

/// What the site answers to a new box.
#[derive(Debug)]
pub enum JoinDecision {
    Admitted(Box<JoinAnswer>),
    /// For good; the reason is for the operator.
    Refused(String),
    /// The site can't decide now.
    Later(String),
}
