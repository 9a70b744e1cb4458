//! Deliberate faults: their kind, their time and the gateway they hit. Only one at a time: the next waits until the last is over
//! and all gateways are ready again, since the site promises to survive the loss of a minority. A gateway that joins or leaves
//! is none that is lost, so kills and pauses go on meanwhile.

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
    /// SIGKILL, its disk is deleted, and a new gateway takes its place.
    Replace,
    /// A new gateway joins, or one leaves.
    Grow,
}

impl FaultKind {
    /// Whether this may happen while a gateway joins or leaves.
    pub fn goes_with_growth(self) -> bool {
        matches!(self, Self::Kill | Self::Pause)
    }
}

/// How often each was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    pub kills: u64,
    /// Gateways stopped for a while.
    pub pauses: u64,
    /// Cuts of the network.
    pub cuts: u64,
    pub replacements: u64,
    /// Gateways that joined or left.
    pub growths: u64,
}

impl Done {
    /// In words, what was done; empty if nothing was.
    pub fn text(&self) -> String {
        let named = [
            ("kills", self.kills),
            ("pauses", self.pauses),
            ("cuts", self.cuts),
            ("replacements", self.replacements),
            ("joins and leaves", self.growths),
        ];
        let some = named.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("  {name} {n}"));
        some.collect()
    }
}

/// When something is due.
#[derive(Debug)]
pub struct Schedule {
    due: Vec<(FaultKind, Duration, Instant)>,
    lasts: [Duration; 5],
    done: Done,
}

impl Schedule {
    /// What the options ask for, from `now` on.
    pub fn new(options: &Options, now: Instant) -> Self {
        let every = [
            (FaultKind::Kill, options.kill_every),
            (FaultKind::Pause, options.pause_every),
            (FaultKind::Cut, options.cut_every),
            (FaultKind::Replace, options.replace_every),
            (FaultKind::Grow, options.grow_every),
        ];
        let due = every.into_iter().filter_map(|(kind, every)| Some((kind, every?, now + every?))).collect();
        let down_for = options.down_for.unwrap_or_default();
        let lasts = [down_for, options.pause_for, options.cut_for, Duration::ZERO, Duration::ZERO];
        Self { due, lasts, done: Done::default() }
    }

    /// What of the kinds that may be done now is due, if anything; it counts as done.
    pub fn next(&mut self, now: Instant, may: impl Fn(FaultKind) -> bool) -> Option<FaultKind> {
        let due = self.due.iter().filter(|(kind, _, at)| *at <= now && may(*kind));
        let (kind, ..) = *due.min_by_key(|(.., at)| *at)?;
        *match kind {
            FaultKind::Kill => &mut self.done.kills,
            FaultKind::Pause => &mut self.done.pauses,
            FaultKind::Cut => &mut self.done.cuts,
            FaultKind::Replace => &mut self.done.replacements,
            FaultKind::Grow => &mut self.done.growths,
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
        let any = |_| true;
        assert_eq!(schedule.next(at(4), any), None);
        assert_eq!(schedule.next(at(5), |kind| kind != FaultKind::Kill), None, "it may not be done");
        assert_eq!(schedule.next(at(5), any), Some(FaultKind::Kill));
        assert_eq!(schedule.lasts(FaultKind::Kill), Duration::ZERO);
        schedule.rest(FaultKind::Kill, at(8));
        assert_eq!(schedule.next(at(8), any), None, "a pause is due, and the site rests");
        assert_eq!(schedule.next(at(9), any), Some(FaultKind::Pause));
        assert_eq!(schedule.lasts(FaultKind::Pause), Duration::from_secs(2));
        schedule.rest(FaultKind::Pause, at(12));
        assert_eq!(schedule.next(at(13), any), Some(FaultKind::Kill));
        assert_eq!(schedule.done(), Done { kills: 2, pauses: 1, ..Done::default() });
        assert_eq!(schedule.done().text(), "  kills 2  pauses 1");
    }

    #[test]
    fn nothing_is_done_unasked() {
        let options = Options::try_parse_from(["x"]).unwrap();
        let start = Instant::now();
        assert_eq!(
            Schedule::new(&options, start).next(start + Duration::from_secs(1_000_000), |_| true),
            None
        );
    }
}
