//! Admission of a node's questions at a gateway, and the answers to them.
//!
//! A question states, by the clock of this gateway's process, when it was asked and how long it waits
//! ([`selvedge_types::question`]). The gateway silently drops a question that is for another start, has expired,
//! comes from the future, or was seen before: only a replay of frames produces these. A question beyond a bound is
//! answered as busy, so that the node can ask another gateway at once.
//!
//! Invariant: each question is admitted once. Its id is remembered as long as it has not expired.
//! Limits: [`MAX_QUESTIONS`] are under way, [`QUESTIONS_PER_S`] are admitted in a second, and [`MAX_SEEN_ENTRIES`]
//! ids are remembered.

use crate::peer::ShardQuery;
use crate::site_questions::{SiteAnswer, SiteQuestion};
use selvedge_types::balance::Recent;
use selvedge_types::ids::GatewayId;
use selvedge_types::question::{
    ANSWER_HEAD_BYTES, About, GatewayAnswer, MAX_ANSWER_BYTES, MAX_WAIT_MS, NodeId, NodeQuestion, QuestionId,
    QuestionOutcome, SiteWindows,
};
use std::collections::{BTreeMap, BTreeSet};

/// How many questions of nodes may be under way.
pub const MAX_QUESTIONS: usize = 32;
/// How many questions are admitted in a second; after a pause, as many at once.
pub const QUESTIONS_PER_S: u64 = 50;
/// How far ahead of this process's clock a question may say that it was asked.
pub const MAX_AHEAD_MS: u64 = 2_000;
/// How many ids of questions are remembered.
pub const MAX_SEEN_ENTRIES: usize = 4_096;

/// The decision about a question.
#[derive(Debug, Clone)]
pub enum QuestionVerdict {
    /// Put it to the site.
    Taken(SiteQuestion),
    /// Answer it as busy.
    Busy,
    /// Drop it, and count it under this word.
    Dropped(&'static str),
}

/// The questions that the gateway has admitted.
#[derive(Debug)]
pub struct NodeQuestions {
    me: GatewayId,
    start: u64,
    seen: BTreeSet<QuestionId>,
    /// When each id may be forgotten.
    until: BTreeSet<(u64, QuestionId)>,
    /// For each question under way: since when, and the node that asked it.
    under_way: BTreeMap<QuestionId, (u64, NodeId)>,
    /// How many more questions may be admitted now, in thousandths of a question.
    allowance: u64,
    filled_ms: u64,
    recent: Recent,
}

impl NodeQuestions {
    /// No questions yet, for this start of the gateway's process.
    pub fn new(me: GatewayId, start: u64) -> Self {
        Self {
            me,
            start,
            seen: BTreeSet::new(),
            until: BTreeSet::new(),
            under_way: BTreeMap::new(),
            allowance: QUESTIONS_PER_S * 1_000,
            filled_ms: 0,
            recent: Recent::default(),
        }
    }

    /// Decides about a question that arrived. `now_ms` is how long the process has run.
    pub fn take(&mut self, now_ms: u64, question: &NodeQuestion) -> QuestionVerdict {
        while self.until.first().is_some_and(|(until, _)| *until <= now_ms) {
            if let Some((_, id)) = self.until.pop_first() {
                self.seen.remove(&id);
            }
        }
        let deadline_ms = question.uptime_ms.saturating_add(u64::from(question.wait_ms));
        if question.start != self.start {
            return QuestionVerdict::Dropped("another_start");
        }
        if question.uptime_ms > now_ms + MAX_AHEAD_MS || question.wait_ms > MAX_WAIT_MS {
            return QuestionVerdict::Dropped("from_the_future");
        }
        if deadline_ms <= now_ms {
            return QuestionVerdict::Dropped("too_late");
        }
        if self.seen.contains(&question.id) {
            return QuestionVerdict::Dropped("seen");
        }
        if self.seen.len() >= MAX_SEEN_ENTRIES {
            return QuestionVerdict::Busy;
        }
        self.seen.insert(question.id);
        self.until.insert((deadline_ms, question.id));
        let since_ms = now_ms.saturating_sub(std::mem::replace(&mut self.filled_ms, now_ms));
        let most = QUESTIONS_PER_S * 1_000;
        self.allowance = since_ms.saturating_mul(QUESTIONS_PER_S).saturating_add(self.allowance).min(most);
        if self.allowance < 1_000 || self.under_way.len() >= MAX_QUESTIONS {
            return QuestionVerdict::Busy;
        }
        self.allowance -= 1_000;
        self.under_way.insert(question.id, (now_ms, question.node));
        let About::Aggregates(asked) = &question.about;
        let bytes = (MAX_ANSWER_BYTES - ANSWER_HEAD_BYTES) as u32;
        let query = ShardQuery::of(asked, bytes, question.wait_ms);
        QuestionVerdict::Taken(SiteQuestion { query, policy: question.policy, deadline_ms })
    }

    /// Takes the site's answer to an admitted question; none if the site could not be asked. Returns the answer,
    /// and the node to send it to.
    pub fn told(
        &mut self,
        now_ms: u64,
        id: QuestionId,
        told: Option<SiteAnswer>,
    ) -> Option<(NodeId, GatewayAnswer)> {
        let (since_ms, node) = self.under_way.remove(&id)?;
        self.recent.note(now_ms, now_ms.saturating_sub(since_ms));
        let outcome = told.map_or(QuestionOutcome::Busy, |told| QuestionOutcome::Windows(windows(told)));
        Some((node, GatewayAnswer { id, gateway: self.me, outcome }))
    }

    /// The answer that the gateway has too many questions.
    pub fn busy(&self, id: QuestionId) -> GatewayAnswer {
        GatewayAnswer { id, gateway: self.me, outcome: QuestionOutcome::Busy }
    }

    /// How many questions are under way, and how long one took recently, in milliseconds.
    pub fn load(&self, now_ms: u64) -> (u32, u32) {
        (self.under_way.len() as u32, self.recent.mean_ms(now_ms) as u32)
    }
}

fn windows(told: SiteAnswer) -> SiteWindows {
    let SiteAnswer { windows, next, shards, missing, since, lacking } = told;
    let filled = SiteWindows::fill(windows, MAX_ANSWER_BYTES - ANSWER_HEAD_BYTES);
    SiteWindows { next: filled.next.or(next), shards, missing, since, lacking, ..filled }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::aggregate::{Aggregate, Sample};
    use selvedge_types::balance::Policy;
    use selvedge_types::ids::ShardId;
    use selvedge_types::question::SiteQuery;
    use selvedge_types::sealed::Sealable;
    use selvedge_types::sequences::Sequences;
    use selvedge_types::site_window::SiteWindow;
    use selvedge_types::time::EpochMs;

    fn question(id: u128, uptime_ms: u64) -> NodeQuestion {
        let about = SiteQuery {
            device: "d".into(),
            stream: None,
            from: EpochMs(0),
            to: EpochMs(9),
            every_ms: None,
            limit: 10,
            after: None,
            stale: false,
        };
        NodeQuestion {
            id: QuestionId(id),
            node: NodeId(5),
            start: 3,
            uptime_ms,
            wait_ms: 1_000,
            policy: Policy::Random,
            about: About::Aggregates(about),
        }
    }

    fn dropped(questions: &mut NodeQuestions, now_ms: u64, question: &NodeQuestion) -> &'static str {
        match questions.take(now_ms, question) {
            QuestionVerdict::Dropped(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_question_is_taken_once_while_it_is_alive() {
        let mut questions = NodeQuestions::new(GatewayId(1), 3);
        let asked = question(1, 10_000);
        let QuestionVerdict::Taken(wanted) = questions.take(10_100, &asked) else { panic!("refused") };
        assert_eq!((wanted.deadline_ms, wanted.query.page.limit), (11_000, 10));
        assert_eq!(dropped(&mut questions, 10_101, &asked), "seen");
        assert_eq!(dropped(&mut questions, 10_999, &asked), "seen");
        assert_eq!(dropped(&mut questions, 11_000, &asked), "too_late");
        assert_eq!(dropped(&mut questions, 90_000, &asked), "too_late");
        assert_eq!(dropped(&mut questions, 7_999, &question(2, 10_000)), "from_the_future");
        let other = NodeQuestion { start: 2, ..question(2, 90_000) };
        assert_eq!(dropped(&mut questions, 90_000, &other), "another_start");
        assert!(matches!(questions.take(90_000, &question(3, 90_000)), QuestionVerdict::Taken(_)));
        assert_eq!((questions.seen.len(), questions.until.len()), (1, 1), "what is dead is forgotten");
    }

    #[test]
    fn too_much_is_busy_and_told_once() {
        let mut questions = NodeQuestions::new(GatewayId(1), 3);
        for id in 0..MAX_QUESTIONS as u128 {
            assert!(matches!(questions.take(0, &question(id, 0)), QuestionVerdict::Taken(_)));
        }
        assert!(matches!(questions.take(0, &question(99, 0)), QuestionVerdict::Busy));
        assert_eq!(questions.busy(QuestionId(99)).outcome, QuestionOutcome::Busy);
        assert_eq!(questions.load(0).0, MAX_QUESTIONS as u32);
        for id in 0..MAX_QUESTIONS as u128 {
            assert!(questions.told(40, QuestionId(id), None).is_some());
        }
        assert_eq!(questions.told(40, QuestionId(0), None), None);
        assert_eq!(questions.load(40), (0, 40));
    }

    #[test]
    fn so_many_come_in_a_second() {
        let mut questions = NodeQuestions::new(GatewayId(1), 3);
        let (mut taken, mut id) = (0, 0);
        for now in 0..10_000 {
            for _ in 0..5 {
                id += 1;
                if matches!(questions.take(now, &question(id, now)), QuestionVerdict::Taken(_)) {
                    taken += 1;
                    questions.told(now, QuestionId(id), None);
                }
            }
            assert!(
                questions.seen.len() <= MAX_SEEN_ENTRIES && questions.seen.len() == questions.until.len()
            );
        }
        assert!((540..=550).contains(&taken), "{taken}");
    }

    #[test]
    fn an_answer_holds_what_fits_and_names_what_is_missing() {
        let mut questions = NodeQuestions::new(GatewayId(1), 3);
        questions.take(0, &question(1, 0));
        let window = |start: i64| {
            let sample = Sample { time: EpochMs(start), slot: 1, index: 0, value: 1.0 };
            SiteWindow {
                device: "d".into(),
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
        };
        let windows = (0..9_000).map(|i| window(i * 1_000)).collect();
        let told = SiteAnswer { windows, shards: 4, missing: vec![ShardId(2)], ..SiteAnswer::default() };
        let (node, answer) = questions.told(5, QuestionId(1), Some(told)).unwrap();
        assert_eq!((node, answer.check()), (NodeId(5), Ok(())));
        let QuestionOutcome::Windows(w) = answer.outcome else { panic!("no windows") };
        assert!(w.rows.len() > 1_000 && w.rows.len() < 9_000);
        assert_eq!(w.next.map(|p| p.start.0), Some(w.rows.len() as i64 * 1_000));
        assert_eq!((w.shards, w.missing), (4, vec![ShardId(2)]));
    }
}
