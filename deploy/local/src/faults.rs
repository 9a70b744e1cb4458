//! Deliberate faults: their kind, their time and the gateway they hit. Only one at a time: the next waits until the last is over
//! and all gateways are ready again, since the site promises to survive the loss of a minority.

use crate::options::Options;
use std::time::{Duration, Instant};

/// The shortest rest of a site that is whole again, whatever is due.
const REST_MS: u64 = 1_000;

/// What can be done to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// SIGKILL, and started again.
    Kill,
    /// SIGSTOP, and SIGCONT when the others have long given it up: it wakes as a leader of the past.
    Pause,
    /// Its network is cut.
    Cut,
}

/// How often each was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    pub kills: u64,
    /// Gateways stopped for a while.
    pub pauses: u64,
    /// Cuts of the network.
    pub cuts: u64,
}

impl Done {
    /// In words, what was done; empty if nothing was.
    pub fn text(&self) -> String {
        let named = [("kills", self.kills), ("pauses", self.pauses), ("cuts", self.cuts)];
        let some = named.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("  {name} {n}"));
        some.collect()
    }
}

/// When something is due.
#[derive(Debug)]
pub struct Schedule {
    due: Vec<(FaultKind, Duration, Instant)>,
    lasts: [Duration; 3],
    done: Done,
}

impl Schedule {
    /// What the options ask for, from `now` on.
    pub fn new(options: &Options, now: Instant) -> Self {
        let every = [
            (FaultKind::Kill, options.kill_every),
            (FaultKind::Pause, options.pause_every),
            (FaultKind::Cut, options.cut_every),
        ];
        let due = every.into_iter().filter_map(|(kind, every)| Some((kind, every?, now + every?))).collect();
        let lasts = [options.down_for.unwrap_or_default(), options.pause_for, options.cut_for];
        Self { due, lasts, done: Done::default() }
    }

    /// What is to be done now, if anything; it counts as done.
    pub fn next(&mut self, now: Instant) -> Option<FaultKind> {
        let (kind, ..) = *self.due.iter().filter(|(.., at)| *at <= now).min_by_key(|(.., at)| *at)?;
        *match kind {
            FaultKind::Kill => &mut self.done.kills,
            FaultKind::Pause => &mut self.done.pauses,
            FaultKind::Cut => &mut self.done.cuts,
        } += 1;
        Some(kind)
    }

    /// How long it lasts until it is healed.
    pub fn lasts(&self, kind: FaultKind) -> Duration {
        self.lasts[kind as usize]
    }

    /// The site is whole again after a fault of this kind.
    pub fn rest(&mut self, kind: FaultKind, now: Instant) {
        for (of, every, at) in &mut self.due {
            let rest = if *of == kind { *every } else { Duration::from_millis(REST_MS) };
            *at = if *of == kind { now + rest } else { (*at).max(now + rest) };
        }
    }

    /// How often each was done.
    pub fn done(&self) -> Done {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn each_kind_has_its_turn_and_the_site_its_rest() {
        let args = ["x", "--kill-every", "5s", "--pause-every", "7s", "--pause-for", "2s"];
        let options = Options::try_parse_from(args).unwrap();
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut schedule = Schedule::new(&options, start);
        assert_eq!(schedule.next(at(4)), None);
        assert_eq!(schedule.next(at(5)), Some(FaultKind::Kill));
        assert_eq!(schedule.lasts(FaultKind::Kill), Duration::ZERO);
        schedule.rest(FaultKind::Kill, at(8));
        assert_eq!(schedule.next(at(8)), None, "a pause is due, and the site rests");
        assert_eq!(schedule.next(at(9)), Some(FaultKind::Pause));
        assert_eq!(schedule.lasts(FaultKind::Pause), Duration::from_secs(2));
        schedule.rest(FaultKind::Pause, at(12));
        assert_eq!(schedule.next(at(13)), Some(FaultKind::Kill));
        assert_eq!(schedule.done(), Done { kills: 2, pauses: 1, cuts: 0 });
        assert_eq!(schedule.done().text(), "  kills 2  pauses 1");
    }

    #[test]
    fn nothing_is_done_unasked() {
        let options = Options::try_parse_from(["x"]).unwrap();
        let start = Instant::now();
        assert_eq!(Schedule::new(&options, start).next(start + Duration::from_secs(1_000_000)), None);
    }
}
