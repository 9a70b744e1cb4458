//! Invitations: what each one-time token admits. They are kept by the token's hash until they are used or expire.

use super::gateway::{GatewayRole, is_zone};
use crate::ring::MAX_WEIGHT;
use bincode::{Decode, Encode};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// How many invitations may be open at a time.
pub const MAX_INVITATIONS_ENTRIES: usize = 64;
/// How many ended invitations are remembered, so that a box with an old token learns why it is refused.
pub const MAX_ENDED_INVITATIONS_ENTRIES: usize = 64;
/// The longest time that an invitation can stay open, in elapsed time: seven days.
pub const MAX_INVITATION_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// The SHA-256 of a one-time token. Only the operator and the new box know the token itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    /// The short name of the invitation with this token, which reveals nothing of the token.
    pub fn invitation(self) -> InvitationId {
        let [a, b, c, d, ..] = self.0;
        InvitationId([a, b, c, d])
    }
}

/// The name of an invitation among those that are open or were open lately: the first bytes of its token's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct InvitationId(pub [u8; 4]);

impl InvitationId {
    /// Reads 8 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u32::from_str_radix(text, 16).ok().filter(|_| digits).map(|id| Self(id.to_be_bytes()))
    }
}

impl fmt::Display for InvitationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The terms of an operator's invitation.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Admission {
    /// Ignored for a replacement, which takes over the role of the replaced gateway.
    pub role: GatewayRole,
    /// The gateway that drains, and is then removed, once the new one is active.
    pub replaces: Option<GatewayId>,
    /// `None` takes the weight of the replaced gateway, or 1.
    pub weight: Option<u32>,
    /// `None` takes the zone that the new gateway names, or else that of the replaced gateway.
    pub zone: Option<String>,
}

/// An open invitation. It copies what the new gateway takes over from the replaced one, because that one may be gone
/// when the new gateway joins.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Invitation {
    pub role: GatewayRole,
    pub weight: u32,
    /// The zone that the operator named, if any.
    pub zone: Option<String>,
    /// The replaced gateway, its `ring_id` and its zone.
    pub replaces: Option<(GatewayId, GatewayId, Option<String>)>,
    /// In the directory's elapsed time.
    pub expires: ElapsedMs,
}

impl Invitation {
    fn is_sound(&self) -> bool {
        let replaced = self.replaces.as_ref().and_then(|(_, _, zone)| zone.as_deref());
        (1..=MAX_WEIGHT).contains(&self.weight) && is_zone(self.zone.as_deref()) && is_zone(replaced)
    }
}

/// Why an invitation is no longer open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum InvitationEnd {
    /// The gateway that joined with it.
    Used(GatewayId),
    Expired,
    /// An operator withdrew it.
    Withdrawn,
}

/// The open invitations, and the last ones that ended (at most [`MAX_ENDED_INVITATIONS_ENTRIES`]).
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub(super) struct Invitations {
    pub open: BTreeMap<TokenHash, Invitation>,
    ended: VecDeque<(TokenHash, InvitationEnd)>,
}

impl Invitations {
    /// How the invitation with this token ended; `None` if it is open, unknown or forgotten.
    pub fn end_of(&self, token: TokenHash) -> Option<InvitationEnd> {
        self.ended.iter().rev().find(|(of, _)| *of == token).map(|(_, end)| *end)
    }

    /// How the invitation with this name ended; `None` if it is open, unknown or forgotten.
    pub fn end_of_id(&self, id: InvitationId) -> Option<InvitationEnd> {
        self.ended.iter().rev().find(|(of, _)| of.invitation() == id).map(|(_, end)| *end)
    }

    /// The token of the open invitation with this name.
    pub fn open_as(&self, id: InvitationId) -> Option<TokenHash> {
        self.open.keys().copied().find(|token| token.invitation() == id)
    }

    pub fn end(&mut self, token: TokenHash, end: InvitationEnd) {
        if self.open.remove(&token).is_some() {
            self.ended.push_back((token, end));
            while self.ended.len() > MAX_ENDED_INVITATIONS_ENTRIES {
                self.ended.pop_front();
            }
        }
    }

    /// Ends all invitations that have expired by `now`.
    pub fn expire(&mut self, now: ElapsedMs) {
        let due = self.open.iter().filter(|(_, invitation)| invitation.expires <= now);
        let due: Vec<TokenHash> = due.map(|(token, _)| *token).collect();
        due.into_iter().for_each(|token| self.end(token, InvitationEnd::Expired));
    }

    /// When the next open invitation expires.
    pub fn next_due(&self) -> Option<ElapsedMs> {
        self.open.values().map(|invitation| invitation.expires).min()
    }

    /// Whether decoded invitations keep their bounds at the elapsed time `now`.
    pub fn is_sound(&self, now: ElapsedMs) -> bool {
        let open =
            |i: &Invitation| i.is_sound() && i.expires > now && i.expires.since(now) <= MAX_INVITATION_MS;
        self.open.len() <= MAX_INVITATIONS_ENTRIES
            && self.ended.len() <= MAX_ENDED_INVITATIONS_ENTRIES
            && self.open.values().all(open)
    }
}
