//! Which of several gateways is asked: what each is loaded with, and the policies that choose by it.
//!
//! A load is what is under way there, times how long it took lately: a slow gateway with a short queue can be worse than a
//! fast one with a long queue. The recent time is a mean that a slower answer raises at once and faster ones, and time
//! itself, pull down, so that a gateway that was slow is tried again ("peak EWMA", as in Twitter's Finagle).
//!
//! The default takes the better of two that are drawn at random. The best of all would do worse: everyone who knows the same
//! loads goes to the same one. Two are enough for the fullest queue to grow with log log n instead of log n.
//!
//! Without IO: time and randomness are passed in.
//!
//! Source: M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, IEEE TPDS 12(10), 2001.

use crate::ids::GatewayId;
use bincode::{Decode, Encode};
use std::collections::BTreeMap;

/// After this long without answers a mean counts for a little more than a third of what it was.
pub const DECAY_MS: u64 = 10_000;

/// Recent times below this count as this: between fast ones, what is under way decides.
const LEAST_MS: f64 = 1.0;

/// How a node or gateway chooses one of several replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub enum Policy {
    Random,
    /// One after the other.
    RoundRobin,
    LeastLoaded,
    /// The one with the lesser load of two that are drawn at random.
    #[default]
    PowerOfTwo,
}

impl Policy {
    /// All names, for those who have to choose one.
    pub const NAMES: &str = "p2c, least_loaded, random, round_robin";

    /// The policy of a name in [`Policy::NAMES`].
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "random" => Some(Self::Random),
            "round_robin" => Some(Self::RoundRobin),
            "least_loaded" => Some(Self::LeastLoaded),
            "p2c" => Some(Self::PowerOfTwo),
            _ => None,
        }
    }

    /// The name by which queries and settings call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::RoundRobin => "round_robin",
            Self::LeastLoaded => "least_loaded",
            Self::PowerOfTwo => "p2c",
        }
    }
}

/// How long something took lately.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recent {
    mean_ms: f64,
    at_ms: u64,
}

impl Recent {
    /// Adds a measured time to the average.
    pub fn note(&mut self, now_ms: u64, took_ms: u64) {
        let (took, kept) = (took_ms as f64, self.kept(now_ms));
        let mean = self.mean_ms * kept;
        // A quarter even if no time has passed: many answers at once are news too.
        let weight = (1.0 - kept).max(0.25);
        self.mean_ms = if took > mean { took } else { mean + (took - mean) * weight };
        self.at_ms = now_ms.max(self.at_ms);
    }

    /// The mean, in milliseconds; it decays while nothing is noted.
    pub fn mean_ms(&self, now_ms: u64) -> f64 {
        self.mean_ms * self.kept(now_ms)
    }

    fn kept(&self, now_ms: u64) -> f64 {
        (-(now_ms.saturating_sub(self.at_ms) as f64) / DECAY_MS as f64).exp()
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Load {
    /// What we asked and wait for.
    under_way: u32,
    /// What it said that it has under way.
    reported: u32,
    recent: Recent,
}

/// The load of the gateways of one site, as far as reports and answers show it.
#[derive(Debug, Default)]
pub struct Balancer {
    loads: BTreeMap<GatewayId, Load>,
    turn: u64,
}

impl Balancer {
    /// Chooses one of the candidates; `None` if there is none. `random` is a number that was drawn for this choice.
    pub fn choose(
        &mut self,
        policy: Policy,
        candidates: &[GatewayId],
        random: u64,
        now_ms: u64,
    ) -> Option<GatewayId> {
        let count = candidates.len() as u64;
        if count == 0 {
            return None;
        }
        let at = |n: u64| candidates.get((n % count) as usize).copied();
        self.turn = self.turn.wrapping_add(1);
        match policy {
            Policy::Random => at(random),
            Policy::RoundRobin => at(self.turn),
            Policy::LeastLoaded => {
                // From another one at each turn, so that equals take turns.
                let turns = (0..count).filter_map(|i| at(self.turn.wrapping_add(i)));
                turns.min_by(|a, b| self.load(*a, now_ms).total_cmp(&self.load(*b, now_ms)))
            }
            Policy::PowerOfTwo => {
                let first = random % count;
                // The second is another one, if there is another.
                let second = first + 1 + (random >> 32) % (count - 1).max(1);
                let (a, b) = (at(first)?, at(second)?);
                Some(if self.load(b, now_ms) < self.load(a, now_ms) { b } else { a })
            }
        }
    }

    /// Something was asked there.
    pub fn began(&mut self, gateway: GatewayId) {
        let load = self.loads.entry(gateway).or_default();
        load.under_way = load.under_way.saturating_add(1);
    }

    /// Notes that a question was answered, or given up, after this time.
    pub fn ended(&mut self, gateway: GatewayId, now_ms: u64, took_ms: u64) {
        let load = self.loads.entry(gateway).or_default();
        load.under_way = load.under_way.saturating_sub(1);
        load.recent.note(now_ms, took_ms);
    }

    /// Notes how many questions a gateway reports as under way, from all nodes.
    pub fn reported(&mut self, gateway: GatewayId, under_way: u32) {
        self.loads.entry(gateway).or_default().reported = under_way;
    }

    /// Forgets a gateway that is gone.
    pub fn forget(&mut self, gateway: GatewayId) {
        self.loads.remove(&gateway);
    }

    /// What choices are made by: what is under way and one more, times the recent time.
    pub fn load(&self, gateway: GatewayId, now_ms: u64) -> f64 {
        let load = self.loads.get(&gateway).copied().unwrap_or_default();
        // What it reported may hold what we asked.
        let queue = f64::from(load.under_way.max(load.reported)) + 1.0;
        queue * load.recent.mean_ms(now_ms).max(LEAST_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator (xorshift64*), so that every run is the same.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }
    }

    struct Outcome {
        longest_queue: usize,
        answered: Vec<usize>,
        mean_ms: f64,
    }

    /// Questions come at random, `each` of 1,000 milliseconds with one, to gateways that take so long for each, one after
    /// the other.
    fn simulate(policy: Policy, takes_ms: &[u64], each: u64, seed: u64) -> Outcome {
        let ids: Vec<_> = (0..takes_ms.len() as u16).map(GatewayId).collect();
        let (mut balancer, mut random) = (Balancer::default(), Random(seed));
        let mut queues: Vec<Vec<(u64, u64)>> = vec![vec![]; ids.len()]; // when it came, when it is done
        let mut outcome = Outcome { longest_queue: 0, answered: vec![0; ids.len()], mean_ms: 0.0 };
        let mut total_ms = 0;
        for now in 0..100_000u64 {
            for (i, queue) in queues.iter_mut().enumerate() {
                while queue.first().is_some_and(|(_, done)| *done <= now) {
                    let (came, done) = queue.remove(0);
                    balancer.ended(ids[i], now, done - came);
                    outcome.answered[i] += 1;
                    total_ms += done - came;
                }
            }
            if random.next() % 1_000 < each {
                let chosen = balancer.choose(policy, &ids, random.next(), now).unwrap();
                balancer.began(chosen);
                let i = usize::from(chosen.0);
                let free = queues[i].last().map_or(now, |(_, done)| *done);
                queues[i].push((now, free + takes_ms[i]));
                outcome.longest_queue = outcome.longest_queue.max(queues[i].len());
            }
        }
        outcome.mean_ms = total_ms as f64 / outcome.answered.iter().sum::<usize>() as f64;
        outcome
    }

    #[test]
    fn the_better_of_two_keeps_queues_far_shorter_than_chance() {
        for seed in 1..=5 {
            let random = simulate(Policy::Random, &[9; 10], 900, seed);
            let p2c = simulate(Policy::PowerOfTwo, &[9; 10], 900, seed);
            assert!(p2c.longest_queue * 2 <= random.longest_queue, "{seed}: {}", p2c.longest_queue);
            assert!(p2c.mean_ms * 1.3 < random.mean_ms, "{seed}: {} {}", p2c.mean_ms, random.mean_ms);
            let (least, most) = (p2c.answered.iter().min(), p2c.answered.iter().max());
            assert!(most.unwrap() * 10 <= least.unwrap() * 13, "an even spread: {:?}", p2c.answered);
        }
    }

    #[test]
    fn a_slow_gateway_gets_less_and_is_not_forgotten() {
        for policy in [Policy::PowerOfTwo, Policy::LeastLoaded] {
            let one_slow = simulate(policy, &[5, 5, 50], 100, 7);
            assert!(one_slow.answered[2] * 3 < one_slow.answered[0], "{policy:?} {:?}", one_slow.answered);
            assert!(one_slow.answered[2] >= 5, "it is tried again: {:?}", one_slow.answered);
            assert!(one_slow.mean_ms < simulate(Policy::Random, &[5, 5, 50], 100, 7).mean_ms / 1.5);
        }
    }

    #[test]
    fn turns_are_taken_and_chance_is_even() {
        let turns = simulate(Policy::RoundRobin, &[1, 1, 1], 500, 3);
        let random = simulate(Policy::Random, &[1, 1, 1], 500, 3);
        assert!(turns.answered.iter().max().unwrap() - turns.answered.iter().min().unwrap() <= 1);
        let share = random.answered.iter().sum::<usize>() / 3;
        assert!(random.answered.iter().all(|n| n.abs_diff(share) < share / 10), "{:?}", random.answered);
    }

    #[test]
    fn what_a_gateway_reports_counts_and_nobody_is_chosen_of_nobody() {
        let mut balancer = Balancer::default();
        let both = [GatewayId(1), GatewayId(2)];
        balancer.reported(GatewayId(1), 9);
        for random in [0, 1, 1 << 32, u64::MAX] {
            for policy in [Policy::PowerOfTwo, Policy::LeastLoaded] {
                assert_eq!(balancer.choose(policy, &both, random, 0), Some(GatewayId(2)));
            }
        }
        for policy in [Policy::Random, Policy::RoundRobin, Policy::LeastLoaded, Policy::PowerOfTwo] {
            assert_eq!(balancer.choose(policy, &[], 7, 0), None);
            assert_eq!(balancer.choose(policy, &both[..1], u64::MAX, 0), Some(GatewayId(1)));
            assert_eq!(Policy::parse(policy.name()), Some(policy));
            assert!(Policy::NAMES.contains(policy.name()));
        }
    }

    #[test]
    fn a_recent_time_rises_at_once_and_decays() {
        let mut recent = Recent::default();
        recent.note(0, 100);
        assert_eq!(recent.mean_ms(0), 100.0);
        recent.note(0, 20);
        assert_eq!(recent.mean_ms(0), 80.0);
        assert!((29.0..30.0).contains(&recent.mean_ms(DECAY_MS)));
    }
}
