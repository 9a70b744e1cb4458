//! Detours: messages that reach a gateway through a third one, because the link between the two ends is down.
//!
//! # Protocol
//!
//! A gateway that can't reach another one directly, and knows by the reports of its neighbours ([`crate::reach`]) that
//! one of them has it up, sends that neighbour [`PeerMessage::Detour`], with the message for the other inside. The
//! neighbour passes it on as [`PeerMessage::Detoured`], under the name of the gateway at the other end of the link on
//! which it came. The receiver takes what is inside as if it came from the gateway that is named, and answers it like
//! anything else: by a detour, if it can't reach it directly either.
//!
//! Only what a gateway asks of a leader, and what leaders answer or tell it, takes a detour ([`may_take`]): forwarded
//! batches, questions, and the ends of connections whose clients have moved. So devices may publish to any gateway that
//! reaches one neighbour of their shards' leaders.
//!
//! **Messages of Paxos take no detour.** A leader that reached its followers through others would be up for some of them
//! and not for others, and what a message costs would depend on a third gateway's load. Leaders go to the best connected
//! member instead ([`crate::shard`]), and until then a majority without the follower is enough. Transfers of state and
//! publishes for subscribers take none either: they would fill the neighbour's links.
//!
//! # What it trusts
//!
//! A receiver believes the neighbour's word for who sent the message. That is no more than a link gives anyway: each
//! gateway of the site was admitted by the directory, holds its key, and could vote falsely in every shard that it has a
//! replica of. It is less than the word of the link's own peer in one respect: a message never gets a name that is not a
//! present gateway's, and nothing but what may take a detour is taken from inside.
//!
//! An answer that is lost costs a repetition, and every replica that has applied the batch answers that, the neighbour's
//! among them. Messages may also come twice when a link comes back while a repetition is under way. That is safe for all
//! of them: forwarded batches are numbered, questions have ids, and closing a connection twice closes it once.
//!
//! # Invariants and limits
//!
//! Invariant: what was passed on is never passed on again, so no message goes further than one hop and none circles.
//! Invariant: a message is passed on under the name of the gateway at the other end of the link on which it came.
//! Limit: both hops have a lane of their own ([`crate::link::Lane::Detours`]), so they displace neither what the
//! neighbour itself sends nor anything of consensus.

use crate::link::{MAX_MESSAGE_BYTES, PEER_FRAME_VERSION};
use crate::peer::PeerMessage;
use crate::reach::Reach;
use selvedge_types::canary::{self, Canary};
use selvedge_types::frame;
use selvedge_types::ids::GatewayId;
use std::sync::Arc;

/// The longest message that takes a detour, in bytes as encoded: with what is put around it, it still fits into a frame.
pub const MAX_DETOUR_BYTES: usize = MAX_MESSAGE_BYTES - 64;

/// Why a message that came by a detour, or asks for one, is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DetourRefused {
    /// This gateway does not reach the one that the message is for.
    #[error("the gateway that the message is for is not up here")]
    OutOfReach,
    /// The gateway that the message is said to be from is no other gateway of the site.
    #[error("the message names no other gateway of the site as its sender")]
    Stranger,
    /// What is inside does not decode, or may not take a detour.
    #[error("no message that may take a detour is inside")]
    Content,
}

/// Whether a message may take a detour.
pub fn may_take(message: &PeerMessage) -> bool {
    match message {
        PeerMessage::Forward { .. }
        | PeerMessage::Forwarded { .. }
        | PeerMessage::Query { .. }
        | PeerMessage::Answer { .. }
        | PeerMessage::AskTable { .. }
        | PeerMessage::TableAnswer { .. }
        | PeerMessage::Evict { .. }
        | PeerMessage::EvictAll { .. } => true,
        PeerMessage::Paxos { .. }
        | PeerMessage::Transfer { .. }
        | PeerMessage::Superseded { .. }
        | PeerMessage::Interest { .. }
        | PeerMessage::Route { .. }
        | PeerMessage::Taken { .. }
        | PeerMessage::Detour { .. }
        | PeerMessage::Detoured { .. } => false,
    }
}

/// Addresses a message: to the gateway that it is for, or to a neighbour that passes it on. `preferred` are the
/// gateways through which it goes best, such as the replicas of its shard. What can't be reached either way is addressed
/// directly, and the link counts it as dropped.
pub fn address(
    reach: &Reach,
    to: GatewayId,
    message: PeerMessage,
    preferred: &[GatewayId],
) -> (GatewayId, PeerMessage) {
    if !may_take(&message) {
        return (to, message);
    }
    let Some(through) = reach.detour(to, preferred) else { return (to, message) };
    let encoded = frame::encode(PEER_FRAME_VERSION, &message);
    if encoded.len() > MAX_DETOUR_BYTES {
        return (to, message);
    }
    (through, PeerMessage::Detour { to, message: encoded.into() })
}

/// Passes on what `from`, the gateway at the other end of the link, sends to another one by this gateway.
///
/// # Errors
/// Returns why it is dropped.
pub fn pass_on(
    reach: &Reach,
    from: GatewayId,
    to: GatewayId,
    message: Arc<[u8]>,
) -> Result<(GatewayId, PeerMessage), DetourRefused> {
    let is_neighbour = to != from && to != reach.me() && reach.up().contains(&to);
    if !is_neighbour {
        return Err(DetourRefused::OutOfReach);
    }
    let from = if canary::makes(Canary::DetourInOwnName) { reach.me() } else { from };
    Ok((to, PeerMessage::Detoured { from, message }))
}

/// Takes out what has come by a detour through `by`, the gateway at the other end of the link: the message of `from`,
/// if that is another gateway of the site (`is_peer`).
///
/// # Errors
/// Returns why it is dropped.
pub fn arrived(
    by: GatewayId,
    from: GatewayId,
    message: &[u8],
    is_peer: impl FnOnce(GatewayId) -> bool,
) -> Result<PeerMessage, DetourRefused> {
    if from == by || !is_peer(from) {
        return Err(DetourRefused::Stranger);
    }
    let decoded = frame::decode::<PeerMessage>("detour", PEER_FRAME_VERSION, message);
    decoded.ok().filter(may_take).ok_or(DetourRefused::Content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detector::Change;
    use crate::machine::Origin;
    use crate::peer::{QueryAnswer, TableQuestion};
    use selvedge_types::ids::ShardId;

    const G: [GatewayId; 4] = [GatewayId(1), GatewayId(2), GatewayId(3), GatewayId(4)];

    /// What a gateway sees when it has these up, and each of them has those up.
    fn reach(me: GatewayId, up: &[GatewayId], theirs: &[GatewayId]) -> Reach {
        let mut reach = Reach::new(me);
        let said = up.iter().filter(|g| **g != me).map(|g| (*g, theirs.iter().copied().collect())).collect();
        let up = up.iter().copied().collect();
        reach.changed(Change { up, said, ..Change::default() });
        reach
    }

    fn batch(bytes: usize) -> PeerMessage {
        let origin = Origin { gateway: G[0], start: 1 };
        PeerMessage::Forward { shard: ShardId(0), origin, n: 1, submission: vec![1; bytes].into() }
    }

    fn inside(message: PeerMessage) -> Arc<[u8]> {
        match message {
            PeerMessage::Detour { message, .. } | PeerMessage::Detoured { message, .. } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_and_its_answer_go_through_the_third() {
        let (one, two, three) = (
            reach(G[0], &[G[0], G[2]], &G[..3]),
            reach(G[1], &[G[1], G[2]], &G[..3]),
            reach(G[2], &G[..3], &G[..3]),
        );
        let answer = PeerMessage::Answer { id: 1, answer: QueryAnswer::Unavailable };
        for (from, to, message) in [(&one, G[1], batch(9)), (&two, G[0], answer)] {
            let (by, asks) = address(from, to, message.clone(), &[]);
            assert_eq!(by, G[2]);
            let (next, passed) = pass_on(&three, from.me(), to, inside(asks)).unwrap();
            assert_eq!(next, to);
            let PeerMessage::Detoured { from: named, message: bytes } = passed else { panic!("{passed:?}") };
            assert_eq!(named, from.me());
            assert_eq!(arrived(G[2], named, &bytes, |g| G[..3].contains(&g)), Ok(message));
        }
    }

    #[test]
    fn what_need_not_or_may_not_take_a_detour_goes_directly() {
        let apart = reach(G[0], &[G[0], G[2]], &G[..3]);
        let direct = |to, message: PeerMessage| address(&apart, to, message.clone(), &[]) == (to, message);
        assert!(direct(G[2], batch(1)), "it is up");
        assert!(direct(G[3], batch(1)), "nobody reaches it");
        assert!(direct(G[1], batch(MAX_DETOUR_BYTES)), "it would not fit");
        assert!(direct(G[1], PeerMessage::Superseded { shard: ShardId(0), configuration: 1 }));
        assert!(direct(G[1], PeerMessage::Taken { publishers: Vec::new() }));
        assert!(!direct(G[1], PeerMessage::AskTable { id: 1, question: TableQuestion::Gateway }));
    }

    #[test]
    fn nothing_is_passed_on_twice_or_to_nowhere() {
        let three = reach(G[2], &G[..3], &G);
        let bytes = inside(address(&reach(G[0], &[G[0], G[2]], &G[..3]), G[1], batch(1), &[]).1);
        for to in [G[0], G[2], G[3]] {
            let refused = pass_on(&three, G[0], to, bytes.clone());
            assert_eq!(refused, Err(DetourRefused::OutOfReach), "back, to itself, or further than one hop");
        }
        let (_, passed) = pass_on(&three, G[0], G[1], bytes).unwrap();
        assert!(!may_take(&passed));
        assert_eq!(address(&reach(G[2], &[G[2], G[3]], &G), G[1], passed.clone(), &[]), (G[1], passed));
    }

    #[test]
    fn who_is_none_and_what_may_take_no_detour_is_not_taken() {
        let encode = |message: &PeerMessage| frame::encode(PEER_FRAME_VERSION, message);
        let (good, is_peer) = (encode(&batch(3)), |g: GatewayId| g == G[0] || g == G[2]);
        let refused = |by, from, bytes: &[u8]| arrived(by, from, bytes, is_peer).unwrap_err();
        assert_eq!(refused(G[2], G[3], &good), DetourRefused::Stranger);
        assert_eq!(refused(G[2], G[2], &good), DetourRefused::Stranger, "it needs no detour");
        let vote = PeerMessage::Superseded { shard: ShardId(0), configuration: 1 };
        let again = PeerMessage::Detoured { from: G[0], message: good.clone().into() };
        let further = PeerMessage::Detour { to: G[0], message: good.clone().into() };
        for message in [vote, again, further] {
            assert_eq!(refused(G[2], G[0], &encode(&message)), DetourRefused::Content, "{message:?}");
        }
        for bytes in [&[][..], &good[..good.len() - 1], &[&good[..], &[0]].concat(), &[9, 9, 9]] {
            assert_eq!(refused(G[2], G[0], bytes), DetourRefused::Content);
        }
    }
}
