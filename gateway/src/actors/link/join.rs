//! A new box's side of joining: it asks gateways of the site, one after the other, until one has the site's answer.

use super::greet::hear_within;
use super::noise::{self, Encrypted, LinkError, LinkKey};
use crate::static_key::StaticKey;
use selvedge_fabric::link::{
    CONNECT_TIMEOUT_MS, Greeting, HANDSHAKE_TIMEOUT_MS, JOIN_WAIT_MS, JoinAnswer, JoinQuestion,
    MAX_JOIN_ANSWER_BYTES,
};
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// The pause after all seeds were asked in vain, in milliseconds.
const ASK_AGAIN_MS: u64 = 2_000;

/// The site refuses this box for good.
#[derive(Debug, thiserror::Error)]
#[error("the site does not admit this gateway ({seed}): {reason}")]
pub struct JoinRefused {
    /// The address of the gateway that was asked.
    seed: String,
    reason: String,
}

/// What one gateway that was asked said.
enum Said {
    Admitted(Box<JoinAnswer>),
    Refused(String),
    Later(String),
}

/// Asks until the site has answered. What is in the way is logged.
///
/// # Errors
/// When the site refuses this box.
pub async fn ask_to_join(
    seeds: &[String],
    key: &LinkKey,
    own: &StaticKey,
    question: &JoinQuestion,
) -> Result<JoinAnswer, JoinRefused> {
    loop {
        for seed in seeds {
            tracing::info!(%seed, "asking to join the site");
            match ask(seed, key, own, question).await {
                Ok(Said::Admitted(answer)) => return Ok(*answer),
                Ok(Said::Refused(reason)) => return Err(JoinRefused { seed: seed.clone(), reason }),
                Ok(Said::Later(why)) => tracing::warn!(%seed, "not admitted yet: {why}"),
                Err(e) => tracing::warn!(%seed, "can't ask it: {e}"),
            }
        }
        sleep(Duration::from_millis(ASK_AGAIN_MS)).await;
    }
}

async fn ask(seed: &str, key: &LinkKey, own: &StaticKey, question: &JoinQuestion) -> Result<Said, LinkError> {
    let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
    let connected = timeout(limit, TcpStream::connect(seed)).await;
    let socket = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    let shaken = timeout(limit, noise::initiate(socket, key, own)).await;
    let Encrypted { mut reader, mut writer, .. } =
        shaken.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT_MS)))?;
    writer.send(&Greeting::Join(Box::new(question.clone())).encode()).await?;
    // Longer than the gateway waits for the directory.
    let limit_ms = JOIN_WAIT_MS + HANDSHAKE_TIMEOUT_MS;
    match hear_within(&mut reader, MAX_JOIN_ANSWER_BYTES, limit_ms).await? {
        Greeting::Admitted(answer) => Ok(Said::Admitted(answer)),
        Greeting::Refused { reason } => Ok(Said::Refused(reason)),
        Greeting::Later { reason } => Ok(Said::Later(reason)),
        _ => Err(LinkError::Broken("a greeting out of turn".to_string())),
    }
}
