//! Joining: a new box has no id yet, so it can't greet. It dials any gateway of the site at the address for links, asks
//! to be admitted, and gets its id and what it needs to start.
//!
//! The question travels where a Hello would, so the handshake has shown that the box knows the site secret and holds
//! the key that it will be admitted with. The gateway that is asked passes the question on to the directory, whose
//! answer is chosen: a repeated question of the same box gets the same id.

use super::incarnation::Incarnation;
use super::peers::KnownPeer;
use crate::directory::{GatewayAddresses, Genesis};
use bincode::{Decode, Encode};
use selvedge_types::ids::GatewayId;
use std::fmt;

/// The longest answer to a box that asks to join, in bytes: a site's first gateways and its present ones, all with the
/// longest addresses.
pub const MAX_JOIN_ANSWER_BYTES: usize = 64 * 1024;

/// How long the gateway that is asked waits until the directory has decided, in milliseconds.
pub const JOIN_WAIT_MS: u64 = 5_000;

/// The one-time token of an invitation. Never printed.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinToken(pub [u8; 32]);

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(secret)")
    }
}

/// A new box's question whether it may join. Its key is that of the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinQuestion {
    /// The oldest protocol between gateways that it speaks.
    pub oldest: u16,
    pub newest: u16,
    /// The site that it means to join.
    pub site: String,
    pub token: JoinToken,
    /// The incarnation of its data folder.
    pub incarnation: Incarnation,
    pub addresses: GatewayAddresses,
    /// Its zone by its own settings.
    pub zone: Option<String>,
    /// The highest level that its release understands.
    pub level: u32,
}

/// What an admitted box needs to start.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinAnswer {
    /// Its id, for good.
    pub gateway: GatewayId,
    /// Whether it is a witness, for good.
    pub is_witness: bool,
    /// How the site began.
    pub genesis: Genesis,
    /// The gateways that the site has now.
    pub peers: Vec<(GatewayId, KnownPeer)>,
}

#[cfg(test)]
mod tests {
    use super::super::hello::{Greeting, MAX_GREETING_BYTES, join_question};
    use super::*;
    use crate::directory::{FirstGateway, GatewayKey, MAX_ADDRESS_BYTES, MAX_ZONE_BYTES};
    use crate::ring::MAX_GATEWAYS;
    use selvedge_types::ids::MAX_SITE_NAME_BYTES;

    fn longest() -> String {
        "h".repeat(MAX_ADDRESS_BYTES)
    }

    fn question() -> JoinQuestion {
        let addresses = GatewayAddresses { peer: longest(), mqtt: longest(), http: longest() };
        let site = "s".repeat(MAX_SITE_NAME_BYTES);
        let mut asked = join_question(site, JoinToken([255; 32]), Incarnation(u128::MAX), addresses);
        (asked.zone, asked.level) = (Some("z".repeat(MAX_ZONE_BYTES)), u32::MAX);
        asked
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(format!("{:?}", question()).contains("JoinToken(secret)"));
    }

    #[test]
    fn the_longest_question_and_the_longest_answer_fit_their_bounds() {
        assert!(Greeting::Join(Box::new(question())).encode().len() <= MAX_GREETING_BYTES);
        let ids = || (1..=MAX_GATEWAYS as u16).map(|n| GatewayId(u16::MAX - n));
        let first = |id| FirstGateway { id, weight: u32::MAX, peer: longest() };
        let known = KnownPeer {
            address: longest(),
            key: Some(GatewayKey([255; 32])),
            incarnation: Some(Incarnation(u128::MAX)),
        };
        let answer = JoinAnswer {
            gateway: GatewayId(u16::MAX),
            is_witness: true,
            genesis: Genesis { shards: u16::MAX, replicas: 5, gateways: ids().map(first).collect() },
            peers: ids().map(|id| (id, known.clone())).collect(),
        };
        let bytes = Greeting::Admitted(Box::new(answer.clone())).encode();
        assert!(bytes.len() <= MAX_JOIN_ANSWER_BYTES, "{}", bytes.len());
        assert_eq!(Greeting::decode(&bytes), Ok(Greeting::Admitted(Box::new(answer))));
    }
}
