//! Questions to sites: which gateway receives each, when another gateway is asked, and which answer counts.
//!
//! The policy chooses a live gateway for a question. If no whole answer has come by half of its time, or the gateway is busy,
//! the node asks one more. The first whole answer counts; when the time is up, the most complete partial one does.
//!
//! Invariant: an answer counts once, and only for the question and the gateway that it names.
//! Limits: [`MAX_QUESTIONS`] are under way, each waits [`MAX_WAIT_MS`] at most.

use crate::sites::Sites;
use selvedge_types::balance::{Balancer, Policy};
use selvedge_types::ids::{GatewayId, SiteId};
use selvedge_types::question::{
    About, GatewayAnswer, MAX_WAIT_MS, NodeId, NodeQuestion, QuestionId, QuestionOutcome, SiteQuery,
    SiteWindows,
};
use selvedge_types::report::Report;
use std::collections::BTreeMap;

/// How many questions may be under way.
pub const MAX_QUESTIONS: usize = 64;

/// How long before the node gives up a gateway must have answered: covers the way back, and how often the node looks.
pub const MARGIN_MS: u64 = 500;

/// What a site is asked.
#[derive(Debug, Clone)]
pub struct Ask {
    pub site: SiteId,
    pub about: SiteQuery,
    /// How to choose a gateway, and replicas there.
    pub policy: Policy,
    /// How long an answer is waited for.
    pub wait_ms: u64,
}

/// What a site answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Answered {
    pub gateway: GatewayId,
    /// The rows; some of the shards may be missing.
    pub windows: SiteWindows,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// No gateway has reported lately.
    #[error("no gateway of the site has reported in the last few seconds; see /v1/sites")]
    Silent,
    /// The node asks too much already.
    #[error("this node has too many questions under way; try again")]
    TooMany,
    /// The gateways that were asked have too much to do.
    #[error("the site's gateways are busy; try again")]
    Busy,
    /// No gateway answered in time.
    #[error("no gateway of the site answered in time")]
    TimedOut,
    /// One did, without any shard.
    #[error(
        "no shard answered in time: no majority of its replicas is within reach of the gateway that was asked; \
         consistency=stale asks for less"
    )]
    NoShard,
}

impl Unanswered {
    /// A short fixed word for the reason, to count it under.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::TooMany => "too_many",
            Self::Busy => "busy",
            Self::TimedOut => "timed_out",
            Self::NoShard => "no_shard",
        }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// A question is to be sent.
    Send(SiteId, GatewayId, NodeQuestion),
    /// The question of this number is over.
    Done(u64, Result<Answered, Unanswered>),
}

#[derive(Debug)]
struct Open {
    ask: Ask,
    /// What its ids are made of.
    random: u128,
    deadline_ms: u64,
    /// When another gateway is asked, if none was yet.
    retry_ms: Option<u64>,
    /// Whom it was put to, and when.
    put: BTreeMap<QuestionId, (GatewayId, u64)>,
    tried: Vec<GatewayId>,
    best: Option<Answered>,
}

/// All questions under way.
#[derive(Debug)]
pub struct Questions {
    me: NodeId,
    balancers: BTreeMap<SiteId, Balancer>,
    open: BTreeMap<u64, Open>,
    ids: BTreeMap<QuestionId, u64>,
}

impl Questions {
    /// A node's questions, of which none is under way yet.
    pub fn new(me: NodeId) -> Self {
        Self { me, balancers: BTreeMap::new(), open: BTreeMap::new(), ids: BTreeMap::new() }
    }

    /// Takes on a question under a number that was not used before. `random` was drawn for it.
    ///
    /// # Errors
    /// When it can't be asked now.
    pub fn ask(
        &mut self,
        now_ms: u64,
        sites: &Sites,
        number: u64,
        ask: Ask,
        random: u128,
        out: &mut Vec<Effect>,
    ) -> Result<(), Unanswered> {
        if self.open.len() >= MAX_QUESTIONS {
            return Err(Unanswered::TooMany);
        }
        if sites.live(now_ms, &ask.site).is_empty() {
            return Err(Unanswered::Silent);
        }
        let wait_ms = ask.wait_ms.min(u64::from(MAX_WAIT_MS));
        let open = Open {
            ask,
            random,
            deadline_ms: now_ms + wait_ms,
            retry_ms: Some(now_ms + wait_ms / 2),
            put: BTreeMap::new(),
            tried: vec![],
            best: None,
        };
        self.open.insert(number, open);
        self.put(now_ms, sites, number, out);
        Ok(())
    }

    /// A report has come: what the gateway is loaded with.
    pub fn reported(&mut self, site: &SiteId, report: &Report) {
        let balancer = self.balancers.entry(site.clone()).or_default();
        balancer.reported(report.gateway, report.questions);
    }

    /// An answer has come. False if nobody waits for it.
    pub fn answered(
        &mut self,
        now_ms: u64,
        sites: &Sites,
        site: &SiteId,
        answer: GatewayAnswer,
        out: &mut Vec<Effect>,
    ) -> bool {
        let Some(number) = self.ids.get(&answer.id).copied() else { return false };
        let Some(open) = self.open.get_mut(&number) else { return false };
        let asked = open.put.get(&answer.id).copied();
        let Some((gateway, since_ms)) =
            asked.filter(|(to, _)| *to == answer.gateway && open.ask.site == *site)
        else {
            return false;
        };
        open.put.remove(&answer.id);
        self.ids.remove(&answer.id);
        if let Some(balancer) = self.balancers.get_mut(site) {
            balancer.ended(gateway, now_ms, now_ms.saturating_sub(since_ms));
        }
        match answer.outcome {
            QuestionOutcome::Windows(windows) => {
                let nobody_else = open.put.is_empty() && open.retry_ms.is_none();
                let whole = windows.missing.is_empty();
                let better =
                    open.best.as_ref().is_none_or(|b| windows.missing.len() < b.windows.missing.len());
                if better {
                    open.best = Some(Answered { gateway, windows });
                }
                // A part is waited with: another gateway may know more.
                if whole || nobody_else {
                    self.finish(now_ms, number, Unanswered::TimedOut, out);
                }
            }
            QuestionOutcome::Busy => {
                if open.retry_ms.is_some() {
                    self.put(now_ms, sites, number, out);
                }
                if self.open.get(&number).is_some_and(|o| o.put.is_empty() && o.best.is_none()) {
                    self.finish(now_ms, number, Unanswered::Busy, out);
                }
            }
        }
        true
    }

    /// Asks others, and gives up.
    pub fn timer(&mut self, now_ms: u64, sites: &Sites, out: &mut Vec<Effect>) {
        let numbers: Vec<u64> = self.open.keys().copied().collect();
        for number in numbers {
            let Some(open) = self.open.get(&number) else { continue };
            if open.deadline_ms <= now_ms {
                self.finish(now_ms, number, Unanswered::TimedOut, out);
            } else if open.retry_ms.is_some_and(|at| at <= now_ms) {
                self.put(now_ms, sites, number, out);
            }
        }
    }

    /// When [`Questions::timer`] has something to do.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.open.values().map(|o| o.retry_ms.unwrap_or(u64::MAX).min(o.deadline_ms)).min()
    }

    /// Puts a question to a gateway that it was not put to yet, if there is one.
    fn put(&mut self, now_ms: u64, sites: &Sites, number: u64, out: &mut Vec<Effect>) {
        let Some(open) = self.open.get_mut(&number) else { return };
        let first = open.tried.is_empty();
        if !first {
            open.retry_ms = None;
        }
        let mut live = sites.live(now_ms, &open.ask.site);
        live.retain(|gateway| !open.tried.contains(gateway));
        let balancer = self.balancers.entry(open.ask.site.clone()).or_default();
        let random = (open.random >> 64) as u64 ^ open.tried.len() as u64;
        let Some(gateway) = balancer.choose(open.ask.policy, &live, random, now_ms) else { return };
        let known = sites.gateways(&open.ask.site).and_then(|all| all.get(&gateway));
        let left_ms = open.deadline_ms.saturating_sub(now_ms);
        // Of a short time half is left for the way.
        let wait_ms =
            left_ms.saturating_sub(MARGIN_MS.min(left_ms / 2)).clamp(1, u64::from(MAX_WAIT_MS)) as u32;
        let Some(known) = known else { return };
        let id = QuestionId(open.random.wrapping_add(open.tried.len() as u128));
        let question = NodeQuestion {
            id,
            node: self.me,
            start: known.report.start,
            uptime_ms: known.uptime_ms(now_ms),
            wait_ms,
            policy: open.ask.policy,
            about: About::Aggregates(open.ask.about.clone()),
        };
        balancer.began(gateway);
        open.tried.push(gateway);
        open.put.insert(id, (gateway, now_ms));
        self.ids.insert(id, number);
        out.push(Effect::Send(open.ask.site.clone(), gateway, question));
    }

    /// Ends a question: with what came, or for this reason.
    fn finish(&mut self, now_ms: u64, number: u64, why: Unanswered, out: &mut Vec<Effect>) {
        let Some(open) = self.open.remove(&number) else { return };
        for (id, (gateway, since_ms)) in open.put {
            self.ids.remove(&id);
            if let Some(balancer) = self.balancers.get_mut(&open.ask.site) {
                balancer.ended(gateway, now_ms, now_ms.saturating_sub(since_ms));
            }
        }
        let result = match open.best {
            Some(best) if best.windows.is_nothing() => Err(Unanswered::NoShard),
            Some(best) => Ok(best),
            None => Err(why),
        };
        out.push(Effect::Done(number, result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sites::tests::{report, site};
    use selvedge_types::ids::ShardId;
    use selvedge_types::report::SILENT_MS;
    use selvedge_types::time::EpochMs;

    struct World {
        sites: Sites,
        questions: Questions,
        out: Vec<Effect>,
    }

    fn world(gateways: u16) -> World {
        let mut sites = Sites::new([site()]);
        for gateway in 1..=gateways {
            sites.hear(0, EpochMs(0), &site(), report(gateway, 9, &[]));
        }
        World { sites, questions: Questions::new(NodeId(5)), out: vec![] }
    }

    fn ask() -> Ask {
        let about = SiteQuery {
            device: "d".into(),
            stream: None,
            from: EpochMs(0),
            to: EpochMs(1),
            every_ms: None,
            limit: 1,
            after: None,
            stale: false,
        };
        Ask { site: site(), about, policy: Policy::default(), wait_ms: 4_000 }
    }

    impl World {
        fn ask(&mut self, now_ms: u64, number: u64) -> Result<(), Unanswered> {
            let random = u128::from(number) << 70;
            self.questions.ask(now_ms, &self.sites, number, ask(), random, &mut self.out)
        }

        fn answer(&mut self, now_ms: u64, answer: GatewayAnswer) -> bool {
            self.questions.answered(now_ms, &self.sites, &site(), answer, &mut self.out)
        }

        fn timer(&mut self, now_ms: u64) {
            self.questions.timer(now_ms, &self.sites, &mut self.out);
        }

        fn sent(&mut self) -> (GatewayId, NodeQuestion) {
            match self.out.pop() {
                Some(Effect::Send(_, gateway, question)) => (gateway, question),
                other => panic!("{other:?}"),
            }
        }

        fn done(&mut self) -> Result<Answered, Unanswered> {
            assert_eq!((self.questions.open.len(), self.questions.ids.len()), (0, 0));
            match self.out.pop() {
                Some(Effect::Done(_, result)) => result,
                other => panic!("{other:?}"),
            }
        }
    }

    fn part(to: &(GatewayId, NodeQuestion), missing: u16) -> GatewayAnswer {
        let missing = (0..missing).map(ShardId).collect();
        let outcome = QuestionOutcome::Windows(SiteWindows { shards: 2, missing, ..SiteWindows::default() });
        GatewayAnswer { id: to.1.id, gateway: to.0, outcome }
    }

    #[test]
    fn a_question_is_asked_by_the_gateways_clock_and_answered_once() {
        let mut w = world(3);
        w.ask(100, 1).unwrap();
        let to = w.sent();
        assert_eq!((to.1.start, to.1.uptime_ms, to.1.wait_ms), (1, 9_100, 3_500));
        assert!(
            !w.answer(101, GatewayAnswer { gateway: GatewayId(to.0.0 % 3 + 1), ..part(&to, 0) }),
            "another's"
        );
        assert!(!w.answer(101, GatewayAnswer { id: QuestionId(77), ..part(&to, 0) }), "unknown");
        assert!(w.answer(101, part(&to, 0)));
        assert_eq!(w.done().unwrap().gateway, to.0);
        assert!(!w.answer(102, part(&to, 0)), "replayed");
        assert!(w.out.is_empty() && w.questions.deadline_ms().is_none());
    }

    #[test]
    fn another_gateway_is_asked_at_half_time_and_the_first_whole_answer_counts() {
        let mut w = world(3);
        w.ask(0, 1).unwrap();
        let first = w.sent();
        w.timer(1_999);
        assert!(w.out.is_empty());
        assert_eq!(w.questions.deadline_ms(), Some(2_000));
        w.timer(2_000);
        let second = w.sent();
        assert!(second.0 != first.0 && second.1.id != first.1.id);
        w.timer(3_000);
        assert!(w.out.is_empty(), "no third one");
        assert!(w.answer(3_000, part(&first, 1)));
        assert!(w.out.is_empty(), "a part is waited with");
        assert!(w.answer(3_100, part(&second, 0)));
        assert_eq!(w.done().unwrap().gateway, second.0);
    }

    #[test]
    fn when_time_is_up_the_best_part_counts_and_nothing_is_an_error() {
        for (missing, expected) in
            [(Some(1), None), (Some(2), Some(Unanswered::NoShard)), (None, Some(Unanswered::TimedOut))]
        {
            let mut w = world(1);
            w.ask(0, 1).unwrap();
            let to = w.sent();
            w.timer(2_000);
            assert!(w.out.is_empty(), "there is no other gateway");
            if let Some(missing) = missing {
                assert!(w.answer(3_000, part(&to, missing)));
            }
            w.timer(4_000);
            assert_eq!(w.done().err(), expected);
        }
    }

    #[test]
    fn a_busy_gateway_is_followed_by_another_at_once() {
        let mut w = world(2);
        w.ask(0, 1).unwrap();
        let first = w.sent();
        w.answer(10, GatewayAnswer { outcome: QuestionOutcome::Busy, ..part(&first, 0) });
        let second = w.sent();
        assert_ne!(first.0, second.0);
        w.answer(20, GatewayAnswer { outcome: QuestionOutcome::Busy, ..part(&second, 0) });
        assert_eq!(w.done(), Err(Unanswered::Busy));
    }

    #[test]
    fn bounds_hold_and_who_is_silent_is_not_asked() {
        let mut w = world(1);
        for number in 0..MAX_QUESTIONS as u64 {
            w.ask(0, number).unwrap();
        }
        assert_eq!(w.ask(0, 99), Err(Unanswered::TooMany));
        w.timer(4_000);
        w.out.clear();
        assert_eq!(w.ask(SILENT_MS + 1, 1), Err(Unanswered::Silent));
    }

    #[test]
    fn questions_are_spread_over_the_gateways_and_busy_ones_are_spared() {
        let mut w = world(3);
        w.questions.reported(&site(), &Report { questions: 20, ..report(3, 9, &[]) });
        let mut asked = [0; 4];
        for number in 0..90 {
            // Only the high half chooses: spread it.
            let random = u128::from(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(number)) << 64;
            w.questions.ask(number, &w.sites, number, ask(), random, &mut w.out).unwrap();
            let to = w.sent();
            asked[usize::from(to.0.0)] += 1;
            w.answer(number, part(&to, 0));
            w.out.clear();
        }
        assert!(asked[1] > 30 && asked[2] > 30 && asked[3] == 0, "{asked:?}");
    }
}
