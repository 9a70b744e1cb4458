//! The uplink: batches of the shards that this gateway leads, sent until the node has confirmed them.
//!
//! For each shard that this gateway leads and that has unconfirmed batches, the uplink loads the lowest few,
//! publishes them, and publishes them again until the node's cursor has passed them. Only the cursor makes
//! progress, since an MQTT client may lose a message that it said it took. The uplink reports the cursor to the
//! shard's leader, which has it chosen; the shard's view that comes back says what is still unconfirmed. A new
//! leader, and from time to time every leader with nothing to send, asks for the cursor with a beacon. For a batch
//! that is lost for good, the uplink sends its number and that it is lost; the node records a hole and moves its
//! cursor past it.
//!
//! A cursor counts if it comes from the ledger that the shard has admitted. Before one is admitted, the first
//! cursor of any ledger goes to the shard, which admits that ledger. A cursor beyond the last batch that was cut
//! must be about batches of another site, for example of a site with this name before it was set up anew. The
//! uplink reports such a cursor as a conflict and ignores it.
//!
//! After a recovery, a shard's view has a fence ([`UplinkView::fence`]): batches behind it wait until the ledger has said
//! how far it has those of the earlier generation. The lane then ends at the fence, and a cursor at it or beyond is what
//! the shard waits for ([`UplinkEffect::Settled`]); it is no conflict. Numbers in frames count from the present
//! generation's first batch, so they are less by [`UplinkView::base`].
//!
//! Invariant: the uplink sends only batches whose content a chosen command has fixed.
//! Limits: [`MAX_INFLIGHT_BATCHES`] batches in all and [`MAX_SHARD_BATCHES`] of one shard are under way.

use super::shard::UplinkView;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::ShardId;
use selvedge_types::uplink::{LedgerId, LostBatch, SiteIncarnation};
use std::collections::{BTreeMap, VecDeque};

/// How many batches may be sent and unconfirmed.
pub const MAX_INFLIGHT_BATCHES: usize = 64;
/// How many unconfirmed batches of one shard may be under way.
pub const MAX_SHARD_BATCHES: u64 = 8;
/// An unconfirmed batch is sent again after this time.
pub const RESEND_MS: u64 = 2_000;
/// A cursor beyond the last batch is a conflict if it is still beyond after this time: another leader may have cut
/// more meanwhile.
pub const BEYOND_MS: u64 = 10_000;
/// A leader whose shard has nothing to send publishes a beacon this often.
pub const BEACON_MS: u64 = 30_000;

/// The content to send for a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkContent {
    Here(Vec<u8>),
    /// Nothing now: the node has the batch already, or other replicas are being asked for it. Ask again.
    NotNow,
    /// Nothing ever: a chosen command has declared the batch lost.
    Lost(LostBatch),
}

/// An action that the uplink asks its host for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkEffect {
    /// Load a batch's content and pass it to [`Uplink::loaded`].
    Load(ShardId, u64),
    Batch {
        shard: ShardId,
        incarnation: SiteIncarnation,
        /// Counted in this incarnation, as the following two are.
        seq: u64,
        /// The lowest seq that the shard keeps.
        first_kept: u64,
        /// The highest seq that the shard has cut.
        last: u64,
        /// The content to seal and publish.
        body: Vec<u8>,
    },
    /// Publish that the content of a batch is lost.
    Lost {
        shard: ShardId,
        incarnation: SiteIncarnation,
        seq: u64,
        /// The lowest seq that the shard keeps.
        first_kept: u64,
        /// The highest seq that the shard has cut.
        last: u64,
        /// The record of the loss, which the node stores as a hole.
        lost: LostBatch,
    },
    /// Publish a beacon, which asks the node for its cursor.
    Beacon {
        shard: ShardId,
        incarnation: SiteIncarnation,
        /// The lowest seq that the shard keeps.
        first_kept: u64,
        /// The highest seq that the shard has cut.
        last: u64,
    },
    /// Tell the shard's leader that a ledger has everything up to this seq.
    Confirmed(ShardId, LedgerId, u64),
    /// Tell the shard's leader how far a ledger has the batches of the generation before a recovery.
    Settled {
        shard: ShardId,
        ledger: LedgerId,
        /// The fence: the last batch of that generation here.
        last: u64,
        /// Whether the ledger has later ones.
        beyond: bool,
    },
}

/// A node's confirmation, as a frame carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// The incarnation of the site that the batches belong to.
    pub incarnation: SiteIncarnation,
    pub ledger: LedgerId,
    /// The highest seq up to which the ledger has every batch.
    pub cursor: u64,
}

/// Why a confirmation is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It comes from another ledger than the admitted one.
    #[error(
        "the ledger {found} confirms batches of shard {shard}, but this site's ledger is {admitted}: stop the node of {found}, or, if \
         {admitted} is gone for good, POST /v1/ledger/{found} to a gateway"
    )]
    Ledger {
        shard: ShardId,
        /// The ledger that confirms.
        found: LedgerId,
        /// The only ledger whose confirmations count.
        admitted: LedgerId,
    },
    /// It is about another incarnation of the site: a replayed frame of that one.
    #[error("a confirmation for shard {0} is for another incarnation of this site")]
    Incarnation(ShardId),
    /// It is about batches that were never cut.
    #[error(
        "the node confirms batches of shard {shard} up to {cursor}, but this site has cut only {last}: does the node have batches of \
         another site of this name, or of this site before it was set up anew?"
    )]
    Beyond {
        shard: ShardId,
        /// The seq that is confirmed.
        cursor: u64,
        /// The highest seq that was cut.
        last: u64,
    },
}

impl NotTaken {
    /// A short fixed word, as a label for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ledger { .. } => "ledger",
            Self::Incarnation(_) => "incarnation",
            Self::Beyond { .. } => "beyond",
        }
    }
}

#[derive(Debug)]
struct Lane {
    view: UplinkView,
    /// Batches that are loading or sent, and when each is due again.
    due_ms: BTreeMap<u64, u64>,
    beacon_ms: u64,
    /// The highest seq that the ledger confirmed, until the shard's view shows it.
    cursor: u64,
    /// The ledger that confirmed it.
    ledger: Option<LedgerId>,
    /// Since when the confirmed seq has been beyond the last batch.
    beyond_ms: Option<u64>,
}

impl UplinkView {
    /// The lowest batch that the shard keeps and the highest that it has cut, as the ledger numbers them.
    fn numbers(&self) -> (u64, u64) {
        (self.first_kept.saturating_sub(self.base), self.last.saturating_sub(self.base))
    }
}

/// The uplink of one gateway.
#[derive(Debug, Default)]
pub struct Uplink {
    connected: bool,
    lanes: BTreeMap<ShardId, Lane>,
    /// The shards led here, in the order in which they get their turns to send.
    turn: VecDeque<ShardId>,
}

impl Uplink {
    /// Takes in a shard's changed view. A shard that this gateway does not lead has no uplink here.
    pub fn view(&mut self, now_ms: u64, shard: ShardId, view: UplinkView, out: &mut Vec<UplinkEffect>) {
        if !view.leading {
            self.lanes.remove(&shard);
            self.turn.retain(|s| *s != shard);
            return;
        }
        if !self.lanes.contains_key(&shard) {
            self.turn.push_back(shard);
        }
        let lane = self.lanes.entry(shard).or_insert_with(|| Lane {
            view,
            due_ms: BTreeMap::new(),
            beacon_ms: now_ms,
            cursor: 0,
            ledger: view.ledger,
            beyond_ms: None,
        });
        // The site admitted another ledger, which may lack what the previous one had.
        if view.ledger.is_some() && lane.ledger != view.ledger {
            (lane.ledger, lane.cursor) = (view.ledger, 0);
        }
        if lane.view.incarnation != view.incarnation {
            // The fence has fallen: the ledger's cursor in the new generation is not known yet.
            lane.cursor = view.first_kept.saturating_sub(1);
            lane.beyond_ms = None;
        }
        lane.view = view;
        lane.due_ms.retain(|seq, _| *seq >= view.first_kept);
        self.pump(now_ms, out);
    }

    /// Notes that the connection to the broker came or went.
    pub fn connected(&mut self, now_ms: u64, connected: bool, out: &mut Vec<UplinkEffect>) {
        self.connected = connected;
        for lane in self.lanes.values_mut() {
            lane.due_ms.clear();
            lane.beacon_ms = now_ms;
        }
        self.pump(now_ms, out);
    }

    /// Whether the broker is connected.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Takes the content of a batch that [`UplinkEffect::Load`] asked for.
    pub fn loaded(
        &mut self,
        now_ms: u64,
        shard: ShardId,
        seq: u64,
        content: UplinkContent,
        out: &mut Vec<UplinkEffect>,
    ) {
        let Some(lane) = self.lanes.get_mut(&shard) else { return };
        if !lane.due_ms.contains_key(&seq) {
            return;
        }
        lane.due_ms.insert(seq, now_ms + RESEND_MS);
        let (incarnation, number) = (lane.view.incarnation, seq.saturating_sub(lane.view.base));
        let (first_kept, last) = lane.view.numbers();
        out.push(match content {
            UplinkContent::NotNow => return,
            UplinkContent::Here(body) => {
                UplinkEffect::Batch { shard, incarnation, seq: number, first_kept, last, body }
            }
            UplinkContent::Lost(lost) => {
                UplinkEffect::Lost { shard, incarnation, seq: number, first_kept, last, lost }
            }
        });
        lane.beacon_ms = now_ms + BEACON_MS;
        if canary::makes(Canary::SentIsConfirmed) {
            out.push(UplinkEffect::Confirmed(shard, lane.view.ledger.unwrap_or_default(), seq));
        }
    }

    /// Takes a ledger's confirmation that it has everything up to `cursor`.
    ///
    /// # Errors
    /// Returns why the confirmation is ignored, if an operator must look into it.
    pub fn confirmed(
        &mut self,
        now_ms: u64,
        shard: ShardId,
        Confirmation { incarnation, ledger, cursor }: Confirmation,
        out: &mut Vec<UplinkEffect>,
    ) -> Result<(), NotTaken> {
        let Some(lane) = self.lanes.get_mut(&shard) else { return Ok(()) };
        let UplinkView { first_kept, last, ledger: admitted, base, fence, .. } = lane.view;
        let cursor = cursor.saturating_add(base);
        if incarnation != lane.view.incarnation {
            return Err(NotTaken::Incarnation(shard));
        }
        if let Some(admitted) = admitted.filter(|admitted| *admitted != ledger) {
            return Err(NotTaken::Ledger { shard, found: ledger, admitted });
        }
        if let Some(last) = fence.filter(|last| cursor >= *last) {
            out.push(UplinkEffect::Settled { shard, ledger, last, beyond: cursor > last });
            return Ok(());
        }
        if cursor > last {
            let since_ms = *lane.beyond_ms.get_or_insert(now_ms);
            return match now_ms.saturating_sub(since_ms) >= BEYOND_MS {
                true => Err(NotTaken::Beyond { shard, cursor, last }),
                false => Ok(()),
            };
        }
        lane.beyond_ms = None;
        if admitted.is_none() && lane.ledger != Some(ledger) {
            // This gets the ledger admitted, whether or not it has any batch yet.
            (lane.ledger, lane.cursor) = (Some(ledger), cursor);
            out.push(UplinkEffect::Confirmed(shard, ledger, cursor));
            return Ok(());
        }
        if cursor <= lane.cursor || cursor < first_kept {
            return Ok(());
        }
        lane.cursor = cursor;
        lane.due_ms.retain(|seq, _| *seq > cursor);
        out.push(UplinkEffect::Confirmed(shard, ledger, cursor));
        self.pump(now_ms, out);
        Ok(())
    }

    /// Resends batches that have waited too long, and publishes beacons.
    pub fn timer(&mut self, now_ms: u64, out: &mut Vec<UplinkEffect>) {
        for (shard, lane) in &mut self.lanes {
            // A cursor that the shard did not take in (because its leader changed, for example) is reported again.
            let told = lane.view.ledger.is_some() && lane.cursor < lane.view.first_kept;
            if let Some(ledger) = lane.ledger.filter(|_| !told && lane.beacon_ms <= now_ms) {
                out.push(UplinkEffect::Confirmed(*shard, ledger, lane.cursor));
            }
            if self.connected && lane.beacon_ms <= now_ms {
                lane.beacon_ms = now_ms + BEACON_MS;
                let (incarnation, (first_kept, last)) = (lane.view.incarnation, lane.view.numbers());
                out.push(UplinkEffect::Beacon { shard: *shard, incarnation, first_kept, last });
            }
            lane.due_ms.retain(|_, due| *due > now_ms);
        }
        self.pump(now_ms, out);
    }

    /// When [`Uplink::timer`] next has something to do; none without a connection.
    pub fn deadline_ms(&self) -> Option<u64> {
        if !self.connected {
            return None;
        }
        self.lanes.values().flat_map(|l| l.due_ms.values().copied().chain([l.beacon_ms])).min()
    }

    /// Asks for the content of the batches to send next, one batch a turn of each shard.
    fn pump(&mut self, now_ms: u64, out: &mut Vec<UplinkEffect>) {
        if !self.connected {
            return;
        }
        let mut inflight: usize = self.lanes.values().map(|l| l.due_ms.len()).sum();
        let mut idle = 0;
        while inflight < MAX_INFLIGHT_BATCHES && idle < self.turn.len() {
            let Some(shard) = self.turn.pop_front() else { return };
            self.turn.push_back(shard);
            let Some(lane) = self.lanes.get_mut(&shard) else { continue };
            let first = lane.view.first_kept.max(lane.cursor + 1);
            let window = first..=lane.view.last.min(first + MAX_SHARD_BATCHES - 1);
            match window.into_iter().find(|seq| !lane.due_ms.contains_key(seq)) {
                Some(seq) => {
                    lane.due_ms.insert(seq, now_ms + RESEND_MS);
                    out.push(UplinkEffect::Load(shard, seq));
                    (inflight, idle) = (inflight + 1, 0);
                }
                None => idle += 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::time::EpochMs;

    const S: ShardId = ShardId(3);
    const L: LedgerId = LedgerId(7);

    fn view(first_kept: u64, last: u64) -> UplinkView {
        UplinkView { leading: true, first_kept, last, ledger: Some(L), incarnation: I, base: 0, fence: None }
    }

    const I: SiteIncarnation = SiteIncarnation { generation: 1, random: 2 };

    fn said(ledger: LedgerId, cursor: u64) -> Confirmation {
        Confirmation { incarnation: I, ledger, cursor }
    }

    fn connected(last: u64) -> (Uplink, Vec<UplinkEffect>) {
        let (mut uplink, mut out) = (Uplink::default(), Vec::new());
        uplink.connected(0, true, &mut out);
        uplink.view(0, S, view(1, last), &mut out);
        (uplink, out)
    }

    #[test]
    fn a_batch_is_sent_until_the_cursor_has_passed_it() {
        let (mut uplink, mut out) = connected(1);
        assert_eq!(out, [UplinkEffect::Load(S, 1)]);
        out.clear();
        uplink.loaded(0, S, 1, UplinkContent::Here(vec![7]), &mut out);
        assert_eq!(
            out,
            [UplinkEffect::Batch { shard: S, incarnation: I, seq: 1, first_kept: 1, last: 1, body: vec![7] }]
        );
        out.clear();
        uplink.timer(RESEND_MS, &mut out);
        assert_eq!(out, [UplinkEffect::Load(S, 1)], "no confirmation: once more");
        out.clear();
        uplink.confirmed(0, S, said(L, 9), &mut out).unwrap();
        let beyond = uplink.confirmed(BEYOND_MS, S, said(L, 9), &mut out);
        assert_eq!(
            beyond,
            Err(NotTaken::Beyond { shard: S, cursor: 9, last: 1 }),
            "never cut to what was cut"
        );
        assert_eq!(out, []);
        uplink.confirmed(RESEND_MS, S, said(L, 1), &mut out).unwrap();
        assert_eq!(out, [UplinkEffect::Confirmed(S, L, 1)]);
        out.clear();
        uplink.confirmed(RESEND_MS, S, said(L, 1), &mut out).unwrap();
        uplink.timer(2 * RESEND_MS, &mut out);
        assert_eq!(out, [], "said once, and nothing is sent any more");
    }

    #[test]
    fn behind_a_fence_nothing_is_sent_and_then_numbers_count_from_one() {
        let (mut uplink, mut out) = (Uplink::default(), Vec::new());
        uplink.connected(0, true, &mut out);
        // Batch 2 is unconfirmed, and those behind it are held back.
        uplink.view(0, S, UplinkView { fence: Some(2), ..view(2, 2) }, &mut out);
        assert_eq!(out, [UplinkEffect::Load(S, 2)]);
        out.clear();
        uplink.timer(0, &mut out);
        assert_eq!(out, [UplinkEffect::Beacon { shard: S, incarnation: I, first_kept: 2, last: 2 }]);
        out.clear();
        uplink.confirmed(0, S, said(L, 1), &mut out).unwrap();
        assert_eq!(out, [], "the ledger lacks one of them");
        for (cursor, beyond) in [(2, false), (5, true)] {
            uplink.confirmed(0, S, said(L, cursor), &mut out).unwrap();
            assert_eq!(out, [UplinkEffect::Settled { shard: S, ledger: L, last: 2, beyond }]);
            out.clear();
        }
        let next = SiteIncarnation { generation: 9, random: 3 };
        uplink.view(0, S, UplinkView { base: 2, incarnation: next, ..view(3, 4) }, &mut out);
        assert_eq!(out, [UplinkEffect::Load(S, 3), UplinkEffect::Load(S, 4)]);
        out.clear();
        uplink.loaded(0, S, 3, UplinkContent::Here(vec![7]), &mut out);
        let batch = UplinkEffect::Batch {
            shard: S,
            incarnation: next,
            seq: 1,
            first_kept: 1,
            last: 2,
            body: vec![7],
        };
        assert_eq!(out, [batch]);
        out.clear();
        let confirmed = |cursor| Confirmation { incarnation: next, ledger: L, cursor };
        uplink.confirmed(0, S, confirmed(2), &mut out).unwrap();
        assert_eq!(out, [UplinkEffect::Confirmed(S, L, 4)]);
        assert_eq!(uplink.confirmed(0, S, said(L, 5), &mut out), Err(NotTaken::Incarnation(S)));
    }

    #[test]
    fn a_lost_batch_is_sent_as_lost_and_one_that_is_sought_is_asked_for_again() {
        let (mut uplink, mut out) = connected(1);
        uplink.loaded(0, S, 1, UplinkContent::NotNow, &mut out);
        uplink.timer(RESEND_MS, &mut out);
        let beacon = UplinkEffect::Beacon { shard: S, incarnation: I, first_kept: 1, last: 1 };
        assert_eq!(out, [UplinkEffect::Load(S, 1), beacon, UplinkEffect::Load(S, 1)]);
        out.clear();
        let lost = LostBatch { readings: 5, parts: 2, from: EpochMs(0), to: EpochMs(9) };
        uplink.loaded(RESEND_MS, S, 1, UplinkContent::Lost(lost), &mut out);
        assert_eq!(
            out,
            [UplinkEffect::Lost { shard: S, incarnation: I, seq: 1, first_kept: 1, last: 1, lost }]
        );
    }

    #[test]
    fn only_the_admitted_ledger_trims_and_the_first_is_admitted() {
        let (mut uplink, mut out) = connected(4);
        let other = LedgerId(8);
        let refused = uplink.confirmed(0, S, said(other, 3), &mut out).unwrap_err();
        assert_eq!(refused, NotTaken::Ledger { shard: S, found: other, admitted: L });
        assert!(
            refused.to_string().contains("POST /v1/ledger/00000000000000000000000000000008"),
            "{refused}"
        );
        out.clear();
        let older = Confirmation { incarnation: SiteIncarnation::default(), ..said(L, 1) };
        assert_eq!(uplink.confirmed(0, S, older, &mut out), Err(NotTaken::Incarnation(S)));
        // An operator has admitted it; the batches that are kept must be sent to it again.
        uplink.confirmed(0, S, said(L, 4), &mut out).unwrap();
        out.clear();
        uplink.view(0, S, UplinkView { ledger: Some(other), ..view(3, 4) }, &mut out);
        assert_eq!(out, [UplinkEffect::Load(S, 3), UplinkEffect::Load(S, 4)]);
        assert!(uplink.confirmed(0, S, said(L, 4), &mut out).is_err());
        out.clear();
        uplink.confirmed(0, S, said(other, 3), &mut out).unwrap();
        assert_eq!(out, [UplinkEffect::Confirmed(S, other, 3)]);
        // The first ledger of a new site is admitted before it has any batch.
        let mut uplink = Uplink::default();
        uplink.view(0, S, UplinkView { ledger: None, ..view(1, 0) }, &mut out);
        out.clear();
        uplink.confirmed(0, S, said(L, 0), &mut out).unwrap();
        assert_eq!(out, [UplinkEffect::Confirmed(S, L, 0)]);
    }

    #[test]
    fn a_shard_has_a_window_and_leaves_room_for_others() {
        let (mut uplink, mut out) = connected(1_000);
        assert_eq!(out.len() as u64, MAX_SHARD_BATCHES);
        for shard in 10..40 {
            uplink.view(0, ShardId(shard), view(1, 1_000), &mut out);
        }
        assert_eq!(out.len(), MAX_INFLIGHT_BATCHES);
        out.clear();
        uplink.confirmed(0, S, said(L, 2), &mut out).unwrap();
        assert_eq!(out.len(), 3, "two places are free again");
    }

    #[test]
    fn a_shard_that_is_led_elsewhere_is_left_alone_and_a_new_leader_asks_first() {
        let (mut uplink, mut out) = connected(0);
        assert_eq!(out, []);
        uplink.timer(0, &mut out);
        assert_eq!(out, [UplinkEffect::Beacon { shard: S, incarnation: I, first_kept: 1, last: 0 }]);
        out.clear();
        uplink.view(0, S, UplinkView::default(), &mut out);
        uplink.confirmed(0, S, said(L, 1), &mut out).unwrap();
        uplink.timer(BEACON_MS, &mut out);
        assert_eq!(out, []);
        assert_eq!(uplink.deadline_ms(), None);
    }
}
