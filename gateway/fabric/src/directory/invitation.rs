//! Invitations: what a one-time token admits, by the token's hash, until it is used or its time is up.

use super::gateway::{GatewayRole, is_zone};
use crate::ring::MAX_WEIGHT;
use bincode::{Decode, Encode};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, VecDeque};

/// The most invitations that are open at a time.
pub const MAX_INVITATIONS_ENTRIES: usize = 64;
/// How many that have ended are remembered, so that whoever comes too late is told why it is not admitted.
pub const MAX_ENDED_INVITATIONS_ENTRIES: usize = 64;
/// The longest time that an invitation stays open, in elapsed time: seven days.
pub const MAX_INVITATION_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// The SHA-256 of a one-time token. The token itself is known to the operator and the new box alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct TokenHash(pub [u8; 32]);

/// What an operator wants to let in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Admission {
    /// Ignored where a gateway is replaced: the new one takes over its role.
    pub role: GatewayRole,
    /// The gateway that goes once the new one is active.
    pub replaces: Option<GatewayId>,
    /// Nothing: that of the replaced gateway, or 1.
    pub weight: Option<u32>,
    /// Nothing: what the new gateway says, or else that of the replaced one.
    pub zone: Option<String>,
}

/// An invitation that is open. What it takes over from a replaced gateway was settled when it was made, for that one may be gone when
/// the new one comes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Invitation {
    pub role: GatewayRole,
    pub weight: u32,
    /// The zone that the operator named.
    pub zone: Option<String>,
    /// Which gateway is replaced, its place in the ring, and its zone.
    pub replaces: Option<(GatewayId, GatewayId, Option<String>)>,
    /// By the directory's elapsed time.
    pub expires: ElapsedMs,
}

impl Invitation {
    fn is_sound(&self) -> bool {
        let replaced = self.replaces.as_ref().and_then(|(_, _, zone)| zone.as_deref());
        (1..=MAX_WEIGHT).contains(&self.weight) && is_zone(self.zone.as_deref()) && is_zone(replaced)
    }
}

/// How an invitation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum InvitationEnd {
    /// This gateway used it.
    Used(GatewayId),
    /// Its time was up.
    Expired,
}

/// Open invitations and the last that ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub(super) struct Invitations {
    pub open: BTreeMap<TokenHash, Invitation>,
    ended: VecDeque<(TokenHash, InvitationEnd)>,
}

impl Invitations {
    /// How the invitation with this token ended, as far as that is remembered.
    pub fn end_of(&self, token: TokenHash) -> Option<InvitationEnd> {
        self.ended.iter().rev().find(|(of, _)| *of == token).map(|(_, end)| *end)
    }

    pub fn end(&mut self, token: TokenHash, end: InvitationEnd) {
        if self.open.remove(&token).is_some() {
            self.ended.push_back((token, end));
            while self.ended.len() > MAX_ENDED_INVITATIONS_ENTRIES {
                self.ended.pop_front();
            }
        }
    }

    /// Ends those whose time is up.
    pub fn expire(&mut self, now: ElapsedMs) {
        let due = self.open.iter().filter(|(_, invitation)| invitation.expires <= now);
        let due: Vec<TokenHash> = due.map(|(token, _)| *token).collect();
        due.into_iter().for_each(|token| self.end(token, InvitationEnd::Expired));
    }

    /// When the next one expires.
    pub fn next_due(&self) -> Option<ElapsedMs> {
        self.open.values().map(|invitation| invitation.expires).min()
    }

    /// Whether this can have come about by `now`.
    pub fn is_sound(&self, now: ElapsedMs) -> bool {
        let open =
            |i: &Invitation| i.is_sound() && i.expires > now && i.expires.since(now) <= MAX_INVITATION_MS;
        self.open.len() <= MAX_INVITATIONS_ENTRIES
            && self.ended.len() <= MAX_ENDED_INVITATIONS_ENTRIES
            && self.open.values().all(open)
    }
}
