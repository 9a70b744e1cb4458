//! The clocks of a machine, which go on with each proposal, and what they say at one moment.

use super::command::Proposal;
use super::rules::StreamClass;
use super::trust::{MAX_LEAD_MS, Trust};
use bincode::{Decode, Encode};
use selvedge_types::time::{EARLIEST_NOW, ElapsedMs, EpochMs, TIME_RANGE};

/// The greatest elapsed time that is applied: far above what is ever counted, with room behind it for every wait.
const MAX_ELAPSED: ElapsedMs = ElapsedMs(1 << 62);

/// What the proposals so far have told of the time.
#[derive(Debug, Clone, Copy, Default, Encode, Decode)]
pub(super) struct Clocks {
    pub elapsed: ElapsedMs,
    pub wall: EpochMs,
    /// A majority agreed on `wall`.
    pub sure: bool,
    /// When a majority last agreed, and on what.
    agreed: Option<(ElapsedMs, EpochMs)>,
    trust: Trust,
}

/// What the time is by both clocks of a machine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub elapsed: ElapsedMs,
    pub wall: EpochMs,
    /// A majority agrees on `wall`.
    pub sure: bool,
    /// The time that it is at least. Where no majority agrees on the wall time, that continues from when one last did, so it may be
    /// later than it says: a site that was off for a month goes on a month behind. Where none ever did, it is [`EARLIEST_NOW`].
    pub earliest: EpochMs,
    /// The time that is believed: see [`super::trust`].
    pub believed: EpochMs,
}

impl Clocks {
    /// Time goes on to that of a proposal: elapsed time never back, and never so far ahead that nothing could come due after it.
    pub fn go_on<Bytes>(&mut self, proposal: &Proposal<Bytes>) {
        self.elapsed = self.elapsed.max(proposal.elapsed).min(MAX_ELAPSED);
        self.wall = EpochMs(proposal.wall.0.clamp(*TIME_RANGE.start(), *TIME_RANGE.end()));
        self.sure = proposal.sure;
        if self.sure {
            self.agreed = Some((self.elapsed, self.wall));
            self.trust.agreed(self.elapsed, self.wall);
        }
    }

    pub fn now(&self) -> Now {
        let Self { elapsed, wall, sure, agreed, trust } = *self;
        let earliest = if agreed.is_some() { wall } else { EARLIEST_NOW };
        // No later than it may be by the wall time, for it may have leapt back.
        Now { elapsed, wall, sure, earliest, believed: trust.time(elapsed).min(earliest) }
    }

    /// The wall time at `elapsed` as it continues from when a majority last agreed on it; nothing if none ever did.
    pub fn continued(&self, elapsed: ElapsedMs) -> Option<EpochMs> {
        let (at, wall) = self.agreed?;
        Some(wall.plus(i64::try_from(elapsed.since(at)).unwrap_or(i64::MAX)))
    }

    /// Whether this can have come about (for clocks that were read back).
    pub fn is_sound(&self) -> bool {
        let sound = |wall: EpochMs| TIME_RANGE.contains(&wall.0);
        let agreed_sound = self.agreed.is_none_or(|(elapsed, wall)| elapsed <= self.elapsed && sound(wall));
        self.elapsed <= MAX_ELAPSED && sound(self.wall) && agreed_sound && self.trust.is_sound(self.elapsed)
    }
}

impl Now {
    /// How far ahead an event time may be at most; nothing where the wall time is not known.
    pub fn lead(&self) -> Option<EpochMs> {
        self.sure.then(|| self.wall.plus(MAX_LEAD_MS))
    }

    /// What may be told of a stream's watermark.
    pub fn told(&self, watermark: EpochMs, class: &StreamClass) -> EpochMs {
        match watermark > self.believed.plus(MAX_LEAD_MS) {
            true => self.believed.plus(-class.lateness_ms),
            false => watermark,
        }
    }
}
