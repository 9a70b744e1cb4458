//! Frames over an encrypted connection: Noise messages on a socket.

use crate::static_key::StaticKey;
use bytes::{Buf, BytesMut};
use selvedge_fabric::directory::GatewayKey;
use selvedge_fabric::link::{KEYLESS_PREAMBLE, PREAMBLE, WIRE_VERSION};
use snow::params::NoiseParams;
use snow::{HandshakeState, StatelessTransportState};
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

const PATTERN: &str = "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s";

/// The pattern of releases without static keys, which are answered only with a refusal.
const KEYLESS_PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";

/// Length of the first handshake message: an ephemeral key and the tag of an empty payload. In [`KEYLESS_PATTERN`] the
/// second has this length as well.
const EPHEMERAL_MESSAGE_BYTES: usize = 32 + TAG_BYTES;

/// Length of the third handshake message: an encrypted static key and the tag of an empty payload.
const STATIC_MESSAGE_BYTES: usize = 32 + 2 * TAG_BYTES;

/// Length of the second handshake message: an ephemeral key, and what the third one holds.
const ANSWER_BYTES: usize = 32 + STATIC_MESSAGE_BYTES;

/// Bytes by which a Noise message is longer than its content.
const TAG_BYTES: usize = 16;

/// The longest content of a Noise message, in bytes.
const CHUNK_BYTES: usize = 65_535 - TAG_BYTES;

/// Length of the prefix that gives a frame's length, in bytes.
const LENGTH_BYTES: usize = 4;

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 128 * 1024;

/// A buffer that grew beyond this many bytes for a large frame is freed.
const KEEP_BYTES: usize = 512 * 1024;

/// The key that all gateways of a site share for their links: derived from the site secret.
#[derive(Clone)]
pub struct LinkKey([u8; 32]);

impl LinkKey {
    /// A key of 32 secret bytes.
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }
}

impl fmt::Debug for LinkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LinkKey(secret)")
    }
}

/// How the text of [`LinkError::RefusedByPeer`] begins, before the peer's reason.
pub(super) const REFUSED_BY_PEER: &str = "refused by the other end: ";

/// Why a connection ended or was not made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The operating system reported a network error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The greeting took too long, in milliseconds.
    #[error("no answer within {0} ms")]
    Timeout(u64),
    /// The other end hung up before it proved that it knows the site secret. A peer does so when we do not know its
    /// secret.
    #[error(
        "the other end hung up during the handshake; check that both gateways have the same site secret, site name and release"
    )]
    HungUp,
    /// The other end does not know the site secret, or is no gateway.
    #[error("the other end does not know this site's secret, or is not a gateway")]
    Stranger,
    /// The other end is a gateway of another release.
    #[error("the other end speaks link version {0}, this release {WIRE_VERSION}; upgrade the older one")]
    WireVersion(u8),
    /// We refused the other end, for this reason.
    #[error("refused: {0}")]
    Refused(String),
    /// The other end refused us, for this reason.
    #[error("{REFUSED_BY_PEER}{0}")]
    RefusedByPeer(String),
    /// The bytes were not made by a gateway with this key, were damaged, or break a bound.
    #[error("the connection is broken: {0}")]
    Broken(String),
}

/// The reading half of an encrypted connection.
pub struct FrameReader {
    socket: OwnedReadHalf,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    raw: BytesMut,
    frame: Vec<u8>,
}

/// The writing half of an encrypted connection.
pub struct FrameWriter {
    socket: OwnedWriteHalf,
    noise: Arc<StatelessTransportState>,
    nonce: u64,
    first: Vec<u8>,
    out: Vec<u8>,
}

fn builder<'a>(pattern: &str, preamble: &'a [u8], key: &'a LinkKey) -> Result<snow::Builder<'a>, LinkError> {
    let params: NoiseParams = pattern.parse().map_err(broken)?;
    snow::Builder::new(params).psk(0, &key.0).and_then(|b| b.prologue(preamble)).map_err(broken)
}

fn with_static<'a>(key: &'a LinkKey, own: &'a StaticKey) -> Result<snow::Builder<'a>, LinkError> {
    builder(PATTERN, &PREAMBLE, key)?.local_private_key(own.private()).map_err(broken)
}

fn broken(e: impl fmt::Display) -> LinkError {
    LinkError::Broken(e.to_string())
}

/// An encrypted connection, with the key by which the other end was authenticated.
pub struct Encrypted {
    pub reader: FrameReader,
    pub writer: FrameWriter,
    pub key: GatewayKey,
}

/// The result of a handshake with an end that dialled.
pub enum Accepted {
    Peer(Encrypted),
    /// A gateway of a release without static keys. It knows the site secret, and can be told why it is refused.
    WithoutKey(FrameReader, FrameWriter),
}

/// Encrypts a connection that this end has dialled. The caller bounds the time.
pub async fn initiate(mut socket: TcpStream, key: &LinkKey, own: &StaticKey) -> Result<Encrypted, LinkError> {
    let mut noise = with_static(key, own)?.build_initiator().map_err(broken)?;
    let mut hello = [0; PREAMBLE.len() + EPHEMERAL_MESSAGE_BYTES];
    let (preamble, message) = hello.split_at_mut(PREAMBLE.len());
    preamble.copy_from_slice(&PREAMBLE);
    noise.write_message(&[], message).map_err(broken)?;
    socket.write_all(&hello).await?;
    let mut answer = [0; ANSWER_BYTES];
    socket.read_exact(&mut answer).await.map_err(hung_up)?;
    noise.read_message(&answer, &mut []).map_err(|_| LinkError::Stranger)?;
    let mut last = [0; STATIC_MESSAGE_BYTES];
    noise.write_message(&[], &mut last).map_err(broken)?;
    socket.write_all(&last).await?;
    encrypted(socket, noise)
}

/// Encrypts a connection that was accepted. The caller bounds the time. It reads no more than 52 bytes before the other
/// end has shown that it knows the key, and answers nothing to one that has not.
pub async fn respond(mut socket: TcpStream, key: &LinkKey, own: &StaticKey) -> Result<Accepted, LinkError> {
    let mut preamble = [0; PREAMBLE.len()];
    socket.read_exact(&mut preamble).await.map_err(hung_up)?;
    let noise = match preamble {
        PREAMBLE => with_static(key, own)?,
        KEYLESS_PREAMBLE => builder(KEYLESS_PATTERN, &KEYLESS_PREAMBLE, key)?,
        [b'S', b'V', b'L', version] => return Err(LinkError::WireVersion(version)),
        _ => return Err(LinkError::Stranger),
    };
    let mut noise = noise.build_responder().map_err(broken)?;
    let mut message = [0; EPHEMERAL_MESSAGE_BYTES];
    socket.read_exact(&mut message).await.map_err(hung_up)?;
    noise.read_message(&message, &mut []).map_err(|_| LinkError::Stranger)?;
    let mut answer = [0; ANSWER_BYTES];
    let length = noise.write_message(&[], &mut answer).map_err(broken)?;
    socket.write_all(answer.get(..length).unwrap_or_default()).await?;
    if preamble == KEYLESS_PREAMBLE {
        return halves(socket, noise).map(|(reader, writer)| Accepted::WithoutKey(reader, writer));
    }
    let mut last = [0; STATIC_MESSAGE_BYTES];
    // A stranger who replays a gateway's first message gets no further.
    socket.read_exact(&mut last).await.map_err(|_| LinkError::Stranger)?;
    noise.read_message(&last, &mut []).map_err(|_| LinkError::Stranger)?;
    encrypted(socket, noise).map(Accepted::Peer)
}

fn encrypted(socket: TcpStream, noise: HandshakeState) -> Result<Encrypted, LinkError> {
    let key = noise.get_remote_static().and_then(|key| key.try_into().ok());
    let key = GatewayKey(key.ok_or_else(|| broken("a handshake without a static key"))?);
    let (reader, writer) = halves(socket, noise)?;
    Ok(Encrypted { reader, writer, key })
}

fn hung_up(e: io::Error) -> LinkError {
    match e.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => LinkError::HungUp,
        _ => LinkError::Io(e),
    }
}

fn halves(socket: TcpStream, noise: HandshakeState) -> Result<(FrameReader, FrameWriter), LinkError> {
    let noise = Arc::new(noise.into_stateless_transport_mode().map_err(broken)?);
    let (read, write) = socket.into_split();
    let reader =
        FrameReader { socket: read, noise: noise.clone(), nonce: 0, raw: BytesMut::new(), frame: Vec::new() };
    let writer = FrameWriter { socket: write, noise, nonce: 0, first: Vec::new(), out: Vec::new() };
    Ok((reader, writer))
}

impl FrameReader {
    /// The next frame's body, of at most `max` bytes. `heard` is called for each authentic piece that arrives. Memory
    /// grows with what has arrived, never with what a length claims.
    ///
    /// # Errors
    /// When the connection ends, or the bytes are not authentic, too long or malformed. The connection can't be read
    /// further then.
    pub async fn next(&mut self, max: usize, mut heard: impl FnMut()) -> Result<&[u8], LinkError> {
        self.frame.clear();
        if self.frame.capacity() > KEEP_BYTES {
            self.frame = Vec::new();
        }
        loop {
            self.next_piece(max).await?;
            heard();
            let Some((length, body)) = self.frame.split_first_chunk::<LENGTH_BYTES>() else {
                return Err(broken("a frame without a length"));
            };
            let length = u32::from_le_bytes(*length) as usize;
            if length > max {
                return Err(broken(format_args!("a frame of {length} bytes, where {max} are allowed")));
            }
            if body.len() > length {
                return Err(broken("a frame that is longer than it says"));
            }
            if body.len() == length {
                break;
            }
        }
        Ok(self.frame.get(LENGTH_BYTES..).unwrap_or_default())
    }

    /// Appends the content of one Noise message to `frame`.
    async fn next_piece(&mut self, max: usize) -> Result<(), LinkError> {
        let length = loop {
            if let Some((length, rest)) = self.raw.split_first_chunk::<2>() {
                let length = usize::from(u16::from_be_bytes(*length));
                if length <= TAG_BYTES || length > max + LENGTH_BYTES + TAG_BYTES {
                    return Err(broken(format_args!("a piece of {length} bytes")));
                }
                if rest.len() >= length {
                    break length;
                }
            }
            self.raw.reserve(READ_BYTES);
            if self.socket.read_buf(&mut self.raw).await? == 0 {
                return Err(broken("closed by the other end"));
            }
        };
        self.raw.advance(2);
        let at = self.frame.len();
        self.frame.resize(at + length, 0);
        let (sealed, room) = (self.raw.get(..length), self.frame.get_mut(at..));
        let (Some(sealed), Some(room)) = (sealed, room) else { return Err(broken("a piece is cut off")) };
        let opened = self.noise.read_message(self.nonce, sealed, room).map_err(broken)?;
        self.frame.truncate(at + opened);
        self.raw.advance(length);
        // Noise refuses the last nonce, so this never wraps around to a used one.
        self.nonce = self.nonce.saturating_add(1);
        Ok(())
    }
}

impl FrameWriter {
    /// Sends a frame with this body, in one write.
    ///
    /// # Errors
    /// When the connection is gone; it can't be written to then. Dropping the future half-way makes the connection
    /// unusable as well.
    pub async fn send(&mut self, body: &[u8]) -> Result<(), LinkError> {
        let length = u32::try_from(body.len()).map_err(broken)?;
        let (head, rest) = body.split_at(body.len().min(CHUNK_BYTES - LENGTH_BYTES));
        self.first.clear();
        self.first.extend(length.to_le_bytes());
        self.first.extend(head);
        self.out.clear();
        for chunk in [self.first.as_slice()].into_iter().chain(rest.chunks(CHUNK_BYTES)) {
            let at = self.out.len();
            self.out.resize(at + 2 + chunk.len() + TAG_BYTES, 0);
            let Some((prefix, sealed)) = self.out.get_mut(at..).and_then(|o| o.split_first_chunk_mut::<2>())
            else {
                return Err(broken("no room for a piece"));
            };
            let sealed_bytes = self.noise.write_message(self.nonce, chunk, sealed).map_err(broken)?;
            *prefix = u16::try_from(sealed_bytes).map_err(broken)?.to_be_bytes();
            self.nonce = self.nonce.saturating_add(1);
        }
        self.socket.write_all(&self.out).await?;
        if self.out.capacity() > KEEP_BYTES {
            self.out = Vec::new();
        }
        Ok(())
    }
}
