//! Greetings between two gateways: the identity that each presents, and the peers that it refuses.
//!
//! A replica that forgot its votes may vote twice and break an earlier choice. So a gateway trusts the incarnation
//! of a peer when it first meets it, writes it down, and refuses any other incarnation from then on: an emptied
//! disk makes a new incarnation. A disk restored from a copy keeps its incarnation, but not the count of its
//! process's starts. The peers refuse a start below the last one they saw, and the same start with another `run`,
//! the number that each process draws afresh (two processes on two copies of one data folder).
//!
//! A gateway writes down only the [`Mark`] of a peer's incarnation. So a thief of that file alone can't greet as
//! one of the peers, and can't raise a peer's start so far that the peer itself is refused. For the same reason a
//! gateway refuses a start beyond what a process can have counted since they last met.
//!
//! Each gateway has a static key, which the handshake authenticates. The directory names the keys and incarnations of
//! a site's gateways, and a peer must have those that it names ([`KnownPeer`]). Until the directory names a gateway's
//! key, its peers trust the first key that they meet and write it down with the mark; they refuse any other from then
//! on. What the directory names takes precedence over what was written down, which may be the key of a stranger who
//! had the site's secret and came first.
//!
//! Limit: a copy that was restored before any peer was ever met, or restored and started more often than the lost
//! original since the copy was made, is not recognised.

use super::incarnation::{Incarnation, Mark};
use super::join::{JoinAnswer, JoinQuestion, JoinToken};
use super::peers::{KnownPeer, PeerList};
use crate::directory::{GatewayAddresses, GatewayKey, RELEASE_LEVEL};
use bincode::{Decode, Encode};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::ids::{GatewayId, MAX_SITE_NAME_BYTES};

/// The newest protocol between gateways that this release speaks.
pub const PROTOCOL_NEWEST: u16 = 2;

/// The oldest protocol between gateways that this release still speaks.
pub const PROTOCOL_OLDEST: u16 = 2;

/// Format version of [`Greeting`] frames. It does not change: every release must be able to give every other one
/// the reason for a refusal.
pub const GREETING_VERSION: u8 = 2;

/// The longest greeting, in bytes.
pub const MAX_GREETING_BYTES: usize = 1024;

/// The longest reason that is sent or logged, in bytes.
pub const MAX_REASON_BYTES: usize = 480;

/// The highest number of starts that a process may have; a greater one shows an altered data folder.
pub const MAX_START: u64 = 1 << 40;

/// How many starts of a peer this gateway may have missed since they last met.
pub const MAX_MISSED_STARTS: u64 = 1 << 20;

/// A gateway's introduction of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// The oldest protocol that it speaks.
    pub oldest: u16,
    /// The newest protocol that it speaks.
    pub newest: u16,
    pub site: String,
    /// A hash of the membership and of the settings that a site must agree on.
    pub membership: [u8; 32],
    pub gateway: GatewayId,
    /// The incarnation of its data folder.
    pub incarnation: Incarnation,
    /// Counts the starts of its process.
    pub start: u64,
    /// Drawn by the process when it started.
    pub run: u64,
}

/// The messages before the first [`PeerFrame`](super::PeerFrame).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Greeting {
    /// The dialler introduces itself.
    Hello(Hello),
    /// The acceptor has admitted the dialler.
    Welcome(Hello),
    /// The dialler has admitted the acceptor: the link is up.
    Ready,
    /// The connection ends here.
    Refused {
        /// Names what is wrong and what to do, for the operator.
        reason: String,
    },
    /// The dialler is a new box and asks to join the site.
    Join(Box<JoinQuestion>),
    /// The site has admitted the box.
    Admitted(Box<JoinAnswer>),
    /// The site can't decide now whether it admits the box, which should ask again.
    Later {
        /// Names what is in the way, for the operator.
        reason: String,
    },
    /// The dialler was removed from the site: the connection ends here, and no other gateway will accept one.
    Removed {
        /// What the operator can do, as in [`Greeting::Refused`].
        reason: String,
    },
}

impl Greeting {
    /// Encodes the greeting as a frame of [`GREETING_VERSION`].
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(GREETING_VERSION, self)
    }

    /// Decodes a greeting. It cuts a reason to [`MAX_REASON_BYTES`] and clears it of control characters, so that it
    /// can be logged.
    ///
    /// # Errors
    /// Returned if the frame is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        Ok(match frame::decode("greeting", GREETING_VERSION, bytes)? {
            Self::Refused { reason } => Self::refused(&reason),
            Self::Later { reason } => Self::later(&reason),
            Self::Removed { reason } => Self::removed(&reason),
            other => other,
        })
    }

    /// A refusal, with its reason cut to the bound.
    pub fn refused(reason: &str) -> Self {
        Self::Refused { reason: bounded(reason) }
    }

    /// A refusal of a gateway that was removed from the site, with its reason cut to the bound.
    pub fn removed(reason: &str) -> Self {
        Self::Removed { reason: bounded(reason) }
    }

    /// An answer to ask again later, with its reason cut to the bound.
    pub fn later(reason: &str) -> Self {
        Self::Later { reason: bounded(reason) }
    }
}

/// The text without control characters, cut to [`MAX_REASON_BYTES`].
fn bounded(reason: &str) -> String {
    let clean = reason.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut bounded = String::new();
    for c in clean {
        if bounded.len() + c.len_utf8() > MAX_REASON_BYTES {
            break;
        }
        bounded.push(c);
    }
    bounded
}

/// The record of a peer that a gateway keeps on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The mark of the peer's incarnation, and so of its data folder.
    pub mark: Mark,
    /// The last start of its process that this gateway met.
    pub start: u64,
    /// The number that this process drew.
    pub run: u64,
    /// The peer's key; `None` in a record of a release without keys.
    pub key: Option<GatewayKey>,
}

/// Why a peer is refused, in words for both operators. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PeerRefusal(pub String);

/// Checks whether `them` may talk to `me` at all: same site, same membership, a common protocol, the right ends.
/// `expected` is the gateway that a dialler meant to reach; an acceptor passes none and accepts all `peers`.
///
/// # Errors
/// Returns what differs and what to do.
pub fn check(
    me: &Hello,
    them: &Hello,
    expected: Option<GatewayId>,
    peers: &PeerList,
) -> Result<(), PeerRefusal> {
    let (mine, theirs) = (me.gateway, them.gateway);
    let refuse = |why: String| Err(PeerRefusal(why));
    if them.newest < me.oldest || them.oldest > me.newest {
        return Err(no_common_protocol(me, them));
    }
    if them.site != me.site {
        let named: String = them.site.chars().filter(|c| !c.is_control()).take(MAX_SITE_NAME_BYTES).collect();
        return refuse(format!(
            "{mine} belongs to site {:?}, {theirs} to site {named:?}; correct the peer addresses",
            me.site
        ));
    }
    if theirs == mine {
        return refuse(format!(
            "both ends call themselves {mine}; give each gateway its own id, or correct the peer addresses"
        ));
    }
    if let Some(expected) = expected.filter(|e| *e != theirs) {
        return refuse(format!(
            "{mine} expected {expected} at this address and found {theirs}; correct the peer addresses"
        ));
    }
    // Before the membership, in which the two may differ for the same reason.
    if peers.was_removed(theirs) {
        return refuse(format!(
            "{theirs} was removed from the site and can't come back under this id; stop it, or let its box join as a new gateway: \
             `selvedge gateway invite` makes the token, and its data folder has to be empty"
        ));
    }
    if them.membership != me.membership {
        return refuse(format!(
            "{mine} and {theirs} disagree on the site's membership or settings (hash {} here, {} there); \
             give all gateways the same site settings",
            short(&me.membership),
            short(&them.membership)
        ));
    }
    if !(1..=MAX_START).contains(&them.start) {
        return refuse(format!(
            "{theirs} says that this is start {} of its process, but start {MAX_START} is the last possible one; its data folder was \
             altered",
            them.start
        ));
    }
    if peers.get(theirs).is_none() {
        return refuse(format!("{mine} knows no gateway {theirs} in its site"));
    }
    Ok(())
}

/// Checks whether the box and gateway `me` can talk at all: the same site, a common protocol.
///
/// # Errors
/// Returns what differs and what to do.
pub fn check_join(me: &Hello, asked: &JoinQuestion) -> Result<(), PeerRefusal> {
    if asked.newest < me.oldest || asked.oldest > me.newest {
        return Err(PeerRefusal(format!(
            "{} speaks protocols {} to {}, the new gateway {} to {}; give it the release that the site runs",
            me.gateway, me.oldest, me.newest, asked.oldest, asked.newest
        )));
    }
    if asked.site != me.site {
        let named = asked.site.chars().filter(|c| !c.is_control()).take(MAX_SITE_NAME_BYTES);
        return Err(PeerRefusal(format!(
            "{} belongs to site {:?}, the new gateway is to join site {:?}; correct its site.name or its site.seeds",
            me.gateway,
            me.site,
            named.collect::<String>()
        )));
    }
    Ok(())
}

/// The question of a box of this release.
pub fn join_question(
    site: String,
    token: JoinToken,
    incarnation: Incarnation,
    addresses: GatewayAddresses,
) -> JoinQuestion {
    let (oldest, newest) = (PROTOCOL_OLDEST, PROTOCOL_NEWEST);
    JoinQuestion { oldest, newest, site, token, incarnation, addresses, zone: None, level: RELEASE_LEVEL }
}

/// The refusal of a gateway whose handshake or greeting is of another protocol.
pub fn no_common_protocol(me: &Hello, them: &Hello) -> PeerRefusal {
    PeerRefusal(format!(
        "{} speaks protocols {} to {}, {} {} to {}; upgrade the older gateway one release at a time",
        me.gateway, me.oldest, me.newest, them.gateway, them.oldest, them.newest
    ))
}

/// Checks whether the peer, authenticated by this key, is the one that the directory names and the one on record (the
/// essay above says why). `Ok(Some)` is the record that must be on disk before the peer is answered; `Ok(None)`: it
/// already is.
///
/// # Errors
/// Returns what is wrong with the peer and what to do.
pub fn admit(
    named: &KnownPeer,
    known: Option<&Known>,
    them: &Hello,
    key: GatewayKey,
) -> Result<Option<Known>, PeerRefusal> {
    let peer = them.gateway;
    let met = Known { mark: them.incarnation.mark(), start: them.start, run: them.run, key: Some(key) };
    let another_key = |than: &str, expected: GatewayKey| {
        Err(PeerRefusal(format!(
            "{peer} has another key than {than} (it was {}, now it is {}); put its original link-key.json back, or {}; if nobody changed \
             it, somebody else has the site's secret",
            short(&expected.0),
            short(&key.0),
            replace(peer)
        )))
    };
    if let Some(named) = named.incarnation.filter(|named| *named != them.incarnation) {
        return Err(PeerRefusal(format!(
            "{peer} has another data folder than the one that the site knows (its mark was {}, now it is {}); give it its original \
             disk, or {}",
            named.mark(),
            met.mark,
            replace(peer)
        )));
    }
    if let Some(named) = named.key.filter(|named| *named != key) {
        return another_key("the one that the site knows", named);
    }
    let Some(known) = known else { return Ok(Some(met)) };
    if named.incarnation.is_some() && known.mark != met.mark {
        // The record is that of a stranger who came first.
        return Ok(Some(met));
    }
    let repair = format!(
        "it may have forgotten votes, so it must not come back under this id: give it its original disk, or {}",
        replace(peer)
    );
    if known.mark != met.mark {
        return Err(PeerRefusal(format!(
            "{peer} has another data folder than before (its mark was {}, now it is {}); {repair}",
            known.mark, met.mark
        )));
    }
    if let Some(before) = known.key.filter(|before| named.key.is_none() && *before != key) {
        return another_key("before", before);
    }
    if met.start > known.start.saturating_add(MAX_MISSED_STARTS) {
        return Err(PeerRefusal(format!(
            "{peer} says that this is start {} of its process, but the last known one was {}; its data folder was altered",
            met.start, known.start
        )));
    }
    if met.start < known.start {
        return Err(PeerRefusal(format!(
            "{peer} has an older data folder than before (it was at start {}, now it is at {}), as if restored from a copy; {repair}",
            known.start, met.start
        )));
    }
    if met.start == known.start && met.run != known.run {
        return Err(PeerRefusal(format!(
            "{peer} says that this is start {} of its process, but another process had this start: its data folder was copied; {repair}",
            met.start
        )));
    }
    Ok((met != *known).then_some(met))
}

/// What puts a gateway back whose disk is lost.
fn replace(peer: GatewayId) -> String {
    format!(
        "run `selvedge gateway invite --replace {}` and start its box with that token and an empty data folder",
        peer.0
    )
}

fn short(hash: &[u8; 32]) -> String {
    hash.iter().take(4).map(|b| format!("{b:02x}")).collect()
}
