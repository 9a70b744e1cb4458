//! Questions put to the site through the ring: they choose which replica to ask about which shard, until all shards
//! have answered or time is up.
//!
//! A device belongs to one shard; a pattern of devices concerns all shards. Each shard is asked in a message of its
//! own (those to one peer share a frame), some shards at a time, and the answers are merged in the order of all
//! rows. Any live replica may answer a stale question, and the question's policy chooses it. Only the shard's
//! leader may answer any other question; it is found by asking. If a replica does not answer in time, another one
//! is asked instead.
//!
//! A shard's replicas move, and the ring may be older than the shard's configuration. A replica that does not answer a
//! question names the members of its configuration, and the members of the latest one are asked, as in
//! [`crate::forward`].
//!
//! Invariant: an answer holds every row of the shards that answered, in order, up to the place where it says to
//! continue.
//! Limits: [`MAX_QUESTIONS`] questions are open. The site asks [`MAX_SHARD_ASKS`] shards at a time for one
//! question, and waits for [`MAX_UNDER_WAY_BYTES`] of answers in all. One question keeps [`MAX_ANSWER_BYTES`].

use crate::machine::{MAX_ANSWER_BYTES, Scanned};
use crate::peer::{PeerMessage, QueryAnswer, ShardQuery};
use crate::ring::{LatestPlacement, Ring};
use selvedge_types::balance::{Balancer, Policy};
use selvedge_types::frame::encoded_bytes;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::pattern::Pattern;
use selvedge_types::question::SiteWindowPlace;
use selvedge_types::site_window::SiteWindow;
use selvedge_types::time::EpochMs;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How many questions may be open.
pub const MAX_QUESTIONS: usize = 256;
/// How many shards are asked at a time for one question.
pub const MAX_SHARD_ASKS: usize = 16;
/// The most bytes that all outstanding answers may have.
pub const MAX_UNDER_WAY_BYTES: usize = 8 * 1024 * 1024;
/// The most bytes of one shard's answer to a question that concerns many.
pub const SHARE_BYTES: u32 = 64 * 1024;
/// A shard that did not answer is asked at another replica after this time.
pub const RETRY_MS: u64 = 500;
/// How often one ask follows the replicas' hints about their leader.
const MAX_TRIES: u32 = 16;

/// A question to put to the site, and how long to wait for its answer.
#[derive(Debug, Clone)]
pub struct SiteQuestion {
    /// The windows to return.
    pub query: ShardQuery,
    /// How replicas are chosen for a stale question.
    pub policy: Policy,
    /// A shard that has not answered by then is reported as missing.
    pub deadline_ms: u64,
}

/// The merged answers of all shards that answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SiteAnswer {
    /// In the order of device, stream and start.
    pub windows: Vec<SiteWindow>,
    /// The place to continue from, if these are not all windows.
    pub next: Option<SiteWindowPlace>,
    /// How many shards were asked.
    pub shards: u16,
    /// The shards that did not answer.
    pub missing: Vec<ShardId>,
    /// Some shard left out windows that closed before this time; none if no shard left any out.
    pub since: Option<EpochMs>,
    /// How many batches that should be on the site could not be read.
    pub lacking: u32,
}

impl SiteAnswer {
    /// Whether no shard at all answered.
    pub fn is_nothing(&self) -> bool {
        self.missing.len() >= usize::from(self.shards)
    }
}

/// An action that the questions ask their host for.
#[derive(Debug, PartialEq)]
pub enum QuestionEffect {
    /// A message for a gateway, possibly this one.
    Send(GatewayId, PeerMessage),
    /// The question of this number has ended, with this answer.
    Told(u64, SiteAnswer),
}

#[derive(Debug)]
struct Open {
    wanted: SiteQuestion,
    /// Shards that have not been asked yet.
    waiting: VecDeque<ShardId>,
    asked: usize,
    shards: u16,
    missing: Vec<ShardId>,
    merged: Merged,
}

/// The answers of shards so far, merged in order.
#[derive(Debug)]
struct Merged {
    /// Windows with their encoded sizes.
    rows: Vec<(usize, SiteWindow)>,
    next: Option<SiteWindowPlace>,
    since: Option<EpochMs>,
    lacking: u32,
    limit: usize,
    bytes: usize,
}

impl Merged {
    /// Takes in a shard's answer. Rows from the first place on that some shard did not reach are left for a later
    /// answer.
    fn merge(&mut self, Scanned { windows, next, since, lacking }: Scanned) {
        self.since = self.since.max(since);
        self.lacking = self.lacking.saturating_add(lacking);
        self.rows.extend(windows.into_iter().map(|w| (encoded_bytes(&w), w)));
        self.rows.sort_by(|(_, a), (_, b)| a.order().cmp(&b.order()));
        // A device belongs to one shard, so no row appears twice; if one did, a page could end before itself.
        self.rows.dedup_by(|(_, a), (_, b)| a.order() == b.order());
        if next.is_some() && (self.next.is_none() || next < self.next) {
            self.next = next;
        }
        let mut bytes = 0;
        let fits = |(i, (size, w)): &(usize, &(usize, SiteWindow))| {
            bytes += size;
            let before = self.next.as_ref().is_none_or(|next| w.order() < next.order());
            before && (*i == 0 || (*i < self.limit && bytes <= self.bytes))
        };
        let most = self.rows.iter().enumerate().take_while(fits).count();
        if let Some((_, first)) = self.rows.get(most) {
            let next = SiteWindowPlace::of(first);
            self.next = Some(self.next.take().map_or(next.clone(), |known| known.min(next)));
            self.rows.truncate(most);
        }
    }
}

#[derive(Debug)]
struct Ask {
    question: u64,
    shard: ShardId,
    to: Option<GatewayId>,
    at_ms: u64,
    tries: u32,
    tried: BTreeSet<GatewayId>,
}

/// All open questions of one gateway, and what it knows of the replicas that answer them.
#[derive(Debug)]
pub struct SiteQuestions {
    placement: LatestPlacement,
    random: u64,
    up: BTreeSet<GatewayId>,
    balancer: Balancer,
    /// The gateway that last answered for each shard as its leader.
    leaders: BTreeMap<ShardId, GatewayId>,
    last: u64,
    open: BTreeMap<u64, Open>,
    asks: BTreeMap<u64, Ask>,
    under_way_bytes: usize,
}

impl SiteQuestions {
    /// No questions yet. `seed` is a random number.
    pub fn new(me: GatewayId, ring: Arc<Ring>, seed: u64) -> Self {
        Self {
            placement: LatestPlacement::new(ring),
            random: seed,
            up: BTreeSet::from([me]),
            balancer: Balancer::default(),
            leaders: BTreeMap::new(),
            last: 0,
            open: BTreeMap::new(),
            asks: BTreeMap::new(),
            under_way_bytes: 0,
        }
    }

    /// Takes a ring with other replica sets. Where a gateway is asked that no longer holds the shard, another one is. A
    /// replica set that a replica named stays if it is later than the ring's.
    pub fn set_ring(&mut self, now_ms: u64, ring: Arc<Ring>, out: &mut Vec<QuestionEffect>) {
        let before = self.placement.clone();
        self.placement.set_ring(ring);
        let placement = &self.placement;
        let outside = |shard: ShardId, gateway: GatewayId| {
            let replicas = placement.replicas(shard);
            replicas != before.replicas(shard) && !replicas.contains(&gateway)
        };
        self.leaders.retain(|shard, leader| !outside(*shard, *leader));
        let gone = |ask: &Ask| ask.to.is_none_or(|to| outside(ask.shard, to));
        let again: Vec<_> = self.asks.iter().filter(|(_, ask)| gone(ask)).map(|(id, _)| *id).collect();
        for id in again {
            self.put(now_ms, id, out);
        }
    }

    /// Opens a question and returns its number, or none if too many are open.
    pub fn ask(&mut self, now_ms: u64, wanted: SiteQuestion, out: &mut Vec<QuestionEffect>) -> Option<u64> {
        if self.open.len() >= MAX_QUESTIONS {
            return None;
        }
        let waiting: VecDeque<ShardId> = match Pattern::read(&wanted.query.device).exact() {
            None => (0..self.placement.ring().shards()).map(ShardId).collect(),
            Some(name) => VecDeque::from([self.placement.ring().shard_of(name)]),
        };
        let (mut wanted, shards) = (wanted, waiting.len() as u16);
        let page = &mut wanted.query.page;
        let (limit, bytes) = (page.limit as usize, page.bytes.min(MAX_ANSWER_BYTES) as usize);
        page.bytes = page.bytes.min(if shards > 1 { SHARE_BYTES } else { MAX_ANSWER_BYTES });
        let merged = Merged { rows: Vec::new(), next: None, since: None, lacking: 0, limit, bytes };
        self.last += 1;
        let question = self.last;
        self.open.insert(question, Open { wanted, waiting, asked: 0, shards, missing: vec![], merged });
        self.pump(now_ms, out);
        Some(question)
    }

    /// Takes a replica's answer to the ask of this number.
    pub fn answered(&mut self, now_ms: u64, id: u64, answer: QueryAnswer, out: &mut Vec<QuestionEffect>) {
        let Some(ask) = self.asks.get_mut(&id) else { return };
        match answer {
            QueryAnswer::Windows(scanned) => {
                let question = ask.question;
                self.over(now_ms, id, true);
                if let Some(open) = self.open.get_mut(&question) {
                    open.merged.merge(scanned);
                }
                self.pump(now_ms, out);
                self.finish(question, out);
            }
            QueryAnswer::NotLeader { leader, replicas: said } => {
                let (shard, number) = (ask.shard, said.configuration);
                if self.placement.learn(shard, said) {
                    self.leaders.remove(&shard);
                }
                let replicas = self.placement.replicas(shard);
                // Who led an earlier configuration is not asked.
                let leader = leader.map(GatewayId).filter(|_| number >= self.placement.configuration(shard));
                let moved = ask.to.is_some_and(|to| !replicas.contains(&to));
                match leader {
                    _ if ask.tries >= MAX_TRIES => {}
                    Some(leader) if ask.to != Some(leader) => self.put_to(now_ms, id, Some(leader), out),
                    None if moved => self.put(now_ms, id, out),
                    // An election is under way, or the leader can't be sure that it leads: the timer asks again.
                    _ => {}
                }
            }
            QueryAnswer::Unavailable => {} // likewise
        }
    }

    /// Takes in which gateways are up, and asks again where the one asked is down.
    pub fn peers(&mut self, now_ms: u64, up: &BTreeSet<GatewayId>, out: &mut Vec<QuestionEffect>) {
        self.up.clone_from(up);
        self.leaders.retain(|_, leader| up.contains(leader));
        let gone = |ask: &Ask| ask.to.is_none_or(|to| !up.contains(&to));
        let again: Vec<_> = self.asks.iter().filter(|(_, ask)| gone(ask)).map(|(id, _)| *id).collect();
        for id in again {
            self.put(now_ms, id, out);
        }
    }

    /// Gives up questions whose time is up, and asks other replicas where an answer is slow.
    pub fn timer(&mut self, now_ms: u64, out: &mut Vec<QuestionEffect>) {
        let late: Vec<_> =
            self.open.iter().filter(|(_, o)| o.wanted.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        for question in late {
            self.give_up(now_ms, question, out);
        }
        let slow = |ask: &Ask| ask.at_ms + RETRY_MS <= now_ms;
        let again: Vec<_> = self.asks.iter().filter(|(_, ask)| slow(ask)).map(|(id, _)| *id).collect();
        for id in again {
            self.put(now_ms, id, out);
        }
        self.pump(now_ms, out);
    }

    /// How many questions are open.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Asks about further shards, as far as the bounds allow.
    fn pump(&mut self, now_ms: u64, out: &mut Vec<QuestionEffect>) {
        let mut first = Vec::new();
        for (question, open) in &mut self.open {
            let bytes = open.wanted.query.page.bytes as usize;
            while open.asked < MAX_SHARD_ASKS && self.under_way_bytes + bytes <= MAX_UNDER_WAY_BYTES {
                let Some(shard) = open.waiting.pop_front() else { break };
                open.asked += 1;
                self.under_way_bytes += bytes;
                self.last += 1;
                let (question, tried) = (*question, BTreeSet::new());
                let ask = Ask { question, shard, to: None, at_ms: now_ms, tries: 0, tried };
                self.asks.insert(self.last, ask);
                first.push(self.last);
            }
        }
        for id in first {
            self.put(now_ms, id, out);
        }
    }

    /// Asks the replica whose turn it is.
    fn put(&mut self, now_ms: u64, id: u64, out: &mut Vec<QuestionEffect>) {
        let Some(ask) = self.asks.get(&id) else { return };
        let Some(open) = self.open.get(&ask.question) else { return };
        let live: Vec<GatewayId> =
            self.placement.replicas(ask.shard).iter().copied().filter(|r| self.up.contains(r)).collect();
        let to = if open.wanted.query.stale {
            let fresh: Vec<_> = live.iter().copied().filter(|r| !ask.tried.contains(r)).collect();
            let from = if fresh.is_empty() { &live } else { &fresh };
            // splitmix64: random enough to choose a replica.
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            self.balancer.choose(open.wanted.policy, from, mixed ^ (mixed >> 31), now_ms)
        } else {
            let known = self.leaders.get(&ask.shard).copied().filter(|_| ask.tries == 0);
            known.or_else(|| live.get(ask.tries as usize % live.len().max(1)).copied())
        };
        self.put_to(now_ms, id, to, out);
    }

    fn put_to(&mut self, now_ms: u64, id: u64, to: Option<GatewayId>, out: &mut Vec<QuestionEffect>) {
        let Some(ask) = self.asks.get_mut(&id) else { return };
        if let Some(before) = ask.to.take() {
            self.balancer.ended(before, now_ms, now_ms.saturating_sub(ask.at_ms));
        }
        (ask.to, ask.at_ms, ask.tries) = (to, now_ms, ask.tries.saturating_add(1));
        let (Some(to), Some(open)) = (to, self.open.get(&ask.question)) else { return };
        ask.tried.insert(to);
        self.balancer.began(to);
        let wait_ms = open.wanted.deadline_ms.saturating_sub(now_ms).try_into().unwrap_or(u32::MAX);
        let query = ShardQuery { wait_ms, ..open.wanted.query.clone() };
        let message = PeerMessage::Query { id, shard: ask.shard, query };
        out.push(QuestionEffect::Send(to, message));
    }

    /// Ends an ask, answered or not.
    fn over(&mut self, now_ms: u64, id: u64, answered: bool) -> Option<ShardId> {
        let ask = self.asks.remove(&id)?;
        if let Some(to) = ask.to {
            self.balancer.ended(to, now_ms, now_ms.saturating_sub(ask.at_ms));
        }
        if let Some(open) = self.open.get_mut(&ask.question) {
            open.asked -= 1;
            self.under_way_bytes -= open.wanted.query.page.bytes as usize;
            match ask.to {
                Some(to) if answered && !open.wanted.query.stale => {
                    self.leaders.insert(ask.shard, to);
                }
                _ if !answered => _ = self.leaders.remove(&ask.shard),
                _ => {}
            }
        }
        Some(ask.shard)
    }

    /// Drops a question whose asker has gone. The shards that were asked continue for as long as the ask said it
    /// would wait.
    pub fn withdraw(&mut self, now_ms: u64, question: u64, out: &mut Vec<QuestionEffect>) {
        let of = |(_, ask): &(&u64, &Ask)| ask.question == question;
        let asked: Vec<_> = self.asks.iter().filter(of).map(|(id, _)| *id).collect();
        asked.into_iter().for_each(|id| _ = self.over(now_ms, id, false));
        self.open.remove(&question);
        self.pump(now_ms, out);
    }

    fn give_up(&mut self, now_ms: u64, question: u64, out: &mut Vec<QuestionEffect>) {
        let of = |(_, ask): &(&u64, &Ask)| ask.question == question;
        let asked: Vec<_> = self.asks.iter().filter(of).map(|(id, _)| *id).collect();
        let mut missing: Vec<_> = asked.into_iter().filter_map(|id| self.over(now_ms, id, false)).collect();
        if let Some(open) = self.open.get_mut(&question) {
            missing.extend(std::mem::take(&mut open.waiting));
            missing.sort_unstable();
            open.missing = missing;
        }
        self.finish(question, out);
    }

    fn finish(&mut self, question: u64, out: &mut Vec<QuestionEffect>) {
        if self.open.get(&question).is_some_and(|o| o.asked == 0 && o.waiting.is_empty())
            && let Some(open) = self.open.remove(&question)
        {
            let Open { shards, missing, merged, .. } = open;
            let Merged { rows, next, since, lacking, .. } = merged;
            let windows = rows.into_iter().map(|(_, window)| window).collect();
            out.push(QuestionEffect::Told(
                question,
                SiteAnswer { windows, next, shards, missing, since, lacking },
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Page;
    use crate::ring::Member;
    use selvedge_types::aggregate::{Aggregate, Sample};
    use selvedge_types::sequences::Sequences;

    const G: [GatewayId; 3] = [GatewayId(1), GatewayId(2), GatewayId(3)];

    fn asks(shards: u16) -> SiteQuestions {
        let ring = Ring::new(shards, &G.map(|id| Member { id, weight: 1 }), 3).unwrap();
        let mut asks = SiteQuestions::new(G[0], Arc::new(ring), 7);
        asks.peers(0, &G.into(), &mut Vec::new());
        asks
    }

    fn wanted(device: &str, stale: bool) -> SiteQuestion {
        let query = ShardQuery {
            device: device.into(),
            stream: None,
            from: EpochMs(0),
            to: EpochMs(1_000_000),
            every_ms: None,
            stale,
            page: Page::default(),
            wait_ms: 0,
        };
        SiteQuestion { query, policy: Policy::PowerOfTwo, deadline_ms: 3_000 }
    }

    fn answer(windows: Vec<SiteWindow>, next: Option<SiteWindowPlace>) -> QueryAnswer {
        QueryAnswer::Windows(Scanned { windows, next, ..Scanned::default() })
    }

    fn window(device: &str, start: i64) -> SiteWindow {
        let sample = Sample { time: EpochMs(start), slot: 1, index: 0, value: 1.0 };
        SiteWindow {
            device: device.into(),
            stream: "s".into(),
            width_ms: 1_000,
            start: EpochMs(start),
            aggregate: Aggregate::of(sample),
            late: 0,
            parts: 1,
            closed: true,
            watermark: EpochMs(0),
            set_aside: 0,
            sequences: Sequences::default(),
        }
    }

    /// Lists the gateway asked, the shard and the question of each ask.
    fn sent(out: &mut Vec<QuestionEffect>) -> Vec<(GatewayId, u64, ShardId)> {
        let of = |effect| match effect {
            QuestionEffect::Send(to, PeerMessage::Query { id, shard, .. }) => (to, id, shard),
            other => panic!("{other:?}"),
        };
        out.drain(..).map(of).collect()
    }

    fn told(out: &mut Vec<QuestionEffect>) -> SiteAnswer {
        match out.pop() {
            Some(QuestionEffect::Told(_, told)) => told,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_does_not_answer_is_asked_no_more_and_the_rest_is_missing() {
        for stale in [true, false] {
            let (mut asks, mut out) = (asks(1), Vec::new());
            asks.ask(0, wanted("d", stale), &mut out);
            let mut tried = sent(&mut out);
            asks.timer(RETRY_MS - 1, &mut out);
            assert!(out.is_empty());
            for at in [RETRY_MS, 2 * RETRY_MS] {
                asks.timer(at, &mut out);
                tried.extend(sent(&mut out));
            }
            let all: BTreeSet<_> = tried.iter().map(|(to, ..)| *to).collect();
            assert_eq!(all, G.into(), "each once");
            asks.timer(3_000, &mut out);
            let none = told(&mut out);
            assert!(none.is_nothing() && none.missing == [ShardId(0)]);
            assert_eq!((asks.open(), asks.asks.len(), asks.under_way_bytes), (0, 0, 0));
            asks.answered(3_001, tried[0].1, answer(vec![], None), &mut out);
            assert_eq!(out, [], "too late");
        }
    }

    #[test]
    fn a_pattern_is_asked_of_every_shard_some_at_a_time_and_merged_in_order() {
        let (mut asks, mut out) = (asks(40), Vec::new());
        asks.ask(0, wanted("d*", true), &mut out);
        let (mut waves, mut shards) = (0, Vec::new());
        while !matches!(out.last(), Some(QuestionEffect::Told(..))) {
            let wave = sent(&mut out);
            assert!(wave.len() <= MAX_SHARD_ASKS);
            waves += 1;
            for (_, id, shard) in wave {
                let device = format!("d{:02}", 39 - shard.0);
                let rows = vec![window(&device, 0), window(&device, 1_000)];
                asks.answered(1, id, answer(rows, None), &mut out);
                shards.push(shard);
            }
        }
        let all = told(&mut out);
        assert!(waves > 2 && shards.len() == 40);
        assert_eq!((all.windows.len(), all.shards, all.next), (80, 40, None));
        assert!(all.windows.windows(2).all(|two| two[0].order() < two[1].order()));
    }

    #[test]
    fn bounds_hold() {
        let (mut asks, mut out) = (asks(64), Vec::new());
        for _ in 0..MAX_QUESTIONS {
            assert!(asks.ask(0, wanted("*", true), &mut out).is_some());
        }
        assert_eq!(asks.ask(0, wanted("*", true), &mut out), None);
        assert!(asks.under_way_bytes <= MAX_UNDER_WAY_BYTES);
        assert_eq!(out.len(), MAX_UNDER_WAY_BYTES / SHARE_BYTES as usize);
        asks.timer(3_000, &mut out);
        assert_eq!((asks.open(), asks.asks.len(), asks.under_way_bytes), (0, 0, 0));
    }

    #[test]
    fn stale_questions_are_spread_over_the_replicas() {
        let (mut asks, mut out) = (asks(1), Vec::new());
        let mut asked: BTreeMap<GatewayId, usize> = BTreeMap::new();
        for now in 0..300 {
            asks.ask(now, wanted("d", true), &mut out);
            let (to, id, _) = sent(&mut out)[0];
            *asked.entry(to).or_default() += 1;
            asks.answered(now, id, answer(vec![], None), &mut out);
            out.clear();
        }
        assert!(G.iter().all(|g| asked.get(g).is_some_and(|n| (60..140).contains(n))), "{asked:?}");
    }
}
