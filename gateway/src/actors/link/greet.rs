//! Greetings: from a TCP connection to one on which frames may flow.

use super::noise::{self, Accepted, Encrypted, FrameReader, FrameWriter, LinkError, LinkKey};
use crate::actors::messages::admission::{AskToJoin, JoinDecision};
use crate::identity::Identity;
use crate::static_key::StaticKey;
use actix::Recipient;
use selvedge_fabric::directory::GatewayKey;
use selvedge_fabric::link::{
    Dialled, Greeting, HANDSHAKE_TIMEOUT_MS, Hello, JoinQuestion, MAX_GREETING_BYTES, PeerList, PeerRefusal,
    check, check_join, no_common_protocol,
};
use selvedge_types::ids::GatewayId;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What both ends of a greeting need to know of this gateway.
pub(super) struct Greeter {
    pub me: Hello,
    pub key: LinkKey,
    pub own: StaticKey,
    /// The gateways that may have a link; locked only for one look or change.
    pub peers: RwLock<PeerList>,
    pub identity: Arc<Mutex<Identity>>,
    /// To the actor that passes the questions of new boxes on.
    pub admission: Recipient<AskToJoin>,
    /// What a peer has answered if this gateway was removed from the site.
    pub removed: OnceLock<String>,
}

/// What an end that dialled has said first.
enum First {
    Hello(Hello),
    Join(Box<JoinQuestion>),
}

/// An authenticated connection to an admitted peer.
pub(super) struct Established {
    pub peer: GatewayId,
    /// The end that dialled, and the start of the peer's process.
    pub dialled: Dialled,
    pub key: GatewayKey,
    pub reader: FrameReader,
    pub writer: FrameWriter,
}

impl Greeter {
    /// Greets as the end that dialled `peer`.
    pub async fn dial(&self, socket: TcpStream, peer: GatewayId) -> Result<Established, LinkError> {
        within(async {
            socket.set_nodelay(true)?;
            let Encrypted { mut reader, mut writer, key } =
                noise::initiate(socket, &self.key, &self.own).await?;
            writer.send(&Greeting::Hello(self.me.clone()).encode()).await?;
            let them = match hear(&mut reader).await? {
                Greeting::Welcome(them) => them,
                Greeting::Refused { reason } => return Err(LinkError::RefusedByPeer(reason)),
                Greeting::Removed { reason } => {
                    if self.removed.set(reason.clone()).is_ok() {
                        tracing::error!("this gateway was removed from its site: {reason}");
                    }
                    return Err(LinkError::RefusedByPeer(reason));
                }
                _ => return Err(out_of_turn()),
            };
            self.consent(&them, key, Some(peer), &mut writer).await?;
            writer.send(&Greeting::Ready.encode()).await?;
            let dialled = Dialled { by: self.me.gateway, start: them.start };
            Ok(Established { peer: them.gateway, dialled, key, reader, writer })
        })
        .await
    }

    /// Greets as the end that was dialled. `met` is called with the peer as soon as it is known, though it may yet be
    /// refused. `None`: a new box asked to join the site, and was answered.
    pub async fn accept(
        &self,
        socket: TcpStream,
        met: impl FnOnce(GatewayId),
    ) -> Result<Option<Established>, LinkError> {
        let (first, mut reader, mut writer, key) = within(async {
            socket.set_nodelay(true)?;
            let accepted = noise::respond(socket, &self.key, &self.own).await?;
            let Encrypted { mut reader, mut writer, key } = match accepted {
                Accepted::Peer(peer) => peer,
                Accepted::WithoutKey(mut reader, mut writer) => {
                    let Greeting::Hello(them) = hear(&mut reader).await? else { return Err(out_of_turn()) };
                    met(them.gateway);
                    return Err(refuse(no_common_protocol(&self.me, &them), &mut writer).await);
                }
            };
            let first = match hear(&mut reader).await? {
                Greeting::Join(asked) => First::Join(asked),
                Greeting::Hello(them) => {
                    met(them.gateway);
                    self.consent(&them, key, None, &mut writer).await?;
                    First::Hello(them)
                }
                _ => return Err(out_of_turn()),
            };
            Ok((first, reader, writer, key))
        })
        .await?;
        let them = match first {
            First::Join(asked) => return self.decide(*asked, key, &mut writer).await.map(|()| None),
            First::Hello(them) => them,
        };
        within(async {
            writer.send(&Greeting::Welcome(self.me.clone()).encode()).await?;
            match hear(&mut reader).await? {
                Greeting::Ready => {
                    let dialled = Dialled { by: them.gateway, start: them.start };
                    Ok(Some(Established { peer: them.gateway, dialled, key, reader, writer }))
                }
                Greeting::Refused { reason } => Err(LinkError::RefusedByPeer(reason)),
                _ => Err(out_of_turn()),
            }
        })
        .await
    }

    /// Answers a new box that asks to join. The actor that is asked bounds the time until the site has decided.
    async fn decide(
        &self,
        asked: JoinQuestion,
        key: GatewayKey,
        writer: &mut FrameWriter,
    ) -> Result<(), LinkError> {
        if let Err(refusal) = check_join(&self.me, &asked) {
            return Err(refuse(refusal, writer).await);
        }
        let decision = self.admission.send(AskToJoin { asked, key }).await;
        let answer = match decision {
            Ok(JoinDecision::Admitted(answer)) => Greeting::Admitted(answer),
            Ok(JoinDecision::Refused(why)) => return Err(refuse(PeerRefusal(why), writer).await),
            Ok(JoinDecision::Later(why)) => Greeting::later(&why),
            Err(_) => Greeting::later("this gateway is stopping"),
        };
        within(async { writer.send(&answer.encode()).await }).await
    }

    /// Checks and admits the other end, or sends it the reason for refusing.
    async fn consent(
        &self,
        them: &Hello,
        key: GatewayKey,
        expected: Option<GatewayId>,
        writer: &mut FrameWriter,
    ) -> Result<(), LinkError> {
        let checked = match self.check(them, expected) {
            Ok(()) => self.admit(them.clone(), key).await,
            Err(refusal) => Err(refusal),
        };
        match checked {
            Ok(()) => Ok(()),
            // Only a dialler learns it: an acceptor that was removed takes the answer of the gateways that it dials.
            Err(PeerRefusal(reason)) if expected.is_none() && self.was_removed(them.gateway) => {
                let _ = writer.send(&Greeting::removed(&reason).encode()).await; // as in `refuse`
                Err(LinkError::Refused(reason))
            }
            Err(refusal) => Err(refuse(refusal, writer).await),
        }
    }

    fn was_removed(&self, gateway: GatewayId) -> bool {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).was_removed(gateway)
    }

    fn check(&self, them: &Hello, expected: Option<GatewayId>) -> Result<(), PeerRefusal> {
        check(&self.me, them, expected, &self.peers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where to dial a peer; none once it is removed.
    pub fn address(&self, peer: GatewayId) -> Option<String> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(peer).map(|known| known.address.clone())
    }

    /// Whether the directory names no other key for a peer by now.
    pub fn may_have(&self, peer: GatewayId, key: GatewayKey) -> bool {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.get(peer).is_some_and(|known| known.may_have(key))
    }

    /// Runs off this thread, because it waits for the disk when a peer, or one of its starts, is new.
    async fn admit(&self, them: Hello, key: GatewayKey) -> Result<(), PeerRefusal> {
        let identity = self.identity.clone();
        let (named, present) = {
            let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
            let Some(named) = peers.get(them.gateway).cloned() else {
                return Err(PeerRefusal(format!("{} was just removed from the site", them.gateway)));
            };
            (named, peers.present().collect())
        };
        let admitted = tokio::task::spawn_blocking(move || {
            identity.lock().unwrap_or_else(PoisonError::into_inner).admit(&named, &them, key, &present)
        });
        admitted.await.unwrap_or_else(|_| Err(PeerRefusal("this gateway is stopping".to_string())))
    }
}

/// Sends the reason for refusing the other end.
async fn refuse(PeerRefusal(reason): PeerRefusal, writer: &mut FrameWriter) -> LinkError {
    // Our own refusal counts, even if it can't be sent.
    let _ = writer.send(&Greeting::refused(&reason).encode()).await;
    LinkError::Refused(reason)
}

async fn hear(reader: &mut FrameReader) -> Result<Greeting, LinkError> {
    hear_up_to(reader, MAX_GREETING_BYTES).await
}

async fn hear_up_to(reader: &mut FrameReader, most_bytes: usize) -> Result<Greeting, LinkError> {
    let body = reader.next(most_bytes, || {}).await?;
    Greeting::decode(body).map_err(|e| LinkError::Broken(e.to_string()))
}

/// The next greeting, if it has at most so many bytes and comes within this time.
pub(super) async fn hear_within(
    reader: &mut FrameReader,
    most_bytes: usize,
    limit_ms: u64,
) -> Result<Greeting, LinkError> {
    let heard = timeout(Duration::from_millis(limit_ms), hear_up_to(reader, most_bytes)).await;
    heard.unwrap_or(Err(LinkError::Timeout(limit_ms)))
}

fn out_of_turn() -> LinkError {
    LinkError::Broken("a greeting out of turn".to_string())
}

async fn within<T>(greeting: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    timeout(limit, greeting).await.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT_MS)))
}
