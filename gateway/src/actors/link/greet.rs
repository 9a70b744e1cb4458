//! Greetings: from a TCP connection to one on which frames may flow.

use super::noise::{self, Accepted, Encrypted, FrameReader, FrameWriter, LinkError, LinkKey};
use crate::identity::Identity;
use crate::static_key::StaticKey;
use selvedge_fabric::directory::GatewayKey;
use selvedge_fabric::link::{
    Greeting, HANDSHAKE_TIMEOUT_MS, Hello, MAX_GREETING_BYTES, PeerList, PeerRefusal, check,
    no_common_protocol,
};
use selvedge_types::ids::GatewayId;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
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
}

/// An authenticated connection to an admitted peer.
pub(super) struct Established {
    pub peer: GatewayId,
    pub start: u64,
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
                Greeting::Hello(_) | Greeting::Ready => return Err(out_of_turn()),
            };
            self.consent(&them, key, Some(peer), &mut writer).await?;
            writer.send(&Greeting::Ready.encode()).await?;
            Ok(Established { peer: them.gateway, start: them.start, key, reader, writer })
        })
        .await
    }

    /// Greets as the end that was dialled. `met` is called with the peer as soon as it is known, though it may yet be
    /// refused.
    pub async fn accept(
        &self,
        socket: TcpStream,
        met: impl FnOnce(GatewayId),
    ) -> Result<Established, LinkError> {
        within(async {
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
            let Greeting::Hello(them) = hear(&mut reader).await? else { return Err(out_of_turn()) };
            met(them.gateway);
            self.consent(&them, key, None, &mut writer).await?;
            writer.send(&Greeting::Welcome(self.me.clone()).encode()).await?;
            match hear(&mut reader).await? {
                Greeting::Ready => {
                    Ok(Established { peer: them.gateway, start: them.start, key, reader, writer })
                }
                Greeting::Refused { reason } => Err(LinkError::RefusedByPeer(reason)),
                Greeting::Hello(_) | Greeting::Welcome(_) => Err(out_of_turn()),
            }
        })
        .await
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
            Err(refusal) => Err(refuse(refusal, writer).await),
        }
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
    let body = reader.next(MAX_GREETING_BYTES, || {}).await?;
    Greeting::decode(body).map_err(|e| LinkError::Broken(e.to_string()))
}

fn out_of_turn() -> LinkError {
    LinkError::Broken("a greeting out of turn".to_string())
}

async fn within<T>(greeting: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    let limit = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    timeout(limit, greeting).await.unwrap_or(Err(LinkError::Timeout(HANDSHAKE_TIMEOUT_MS)))
}
