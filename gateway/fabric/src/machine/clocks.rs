//! The clocks of a machine, which advance with each proposal, and the time that they show.

use super::command::Proposal;
use super::rules::StreamClass;
use super::trust::{MAX_LEAD_MS, Trust};
use bincode::{Decode, Encode};
use selvedge_types::time::{EARLIEST_NOW, ElapsedMs, EpochMs, TIME_RANGE};

/// The greatest elapsed time that is applied. It is far above any that is ever counted, and leaves room for
/// every wait.
const MAX_ELAPSED: ElapsedMs = ElapsedMs(1 << 62);

/// The time as of the last proposal.
#[derive(Debug, Clone, Copy, Default, Encode, Decode)]
pub(super) struct Clocks {
    pub elapsed: ElapsedMs,
    pub wall: EpochMs,
    /// Whether a majority of the gateways agreed on `wall`.
    pub sure: bool,
    /// When a majority last agreed, and on what wall time.
    agreed: Option<(ElapsedMs, EpochMs)>,
    trust: Trust,
}

/// The time by both clocks of a machine, at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct MachineTime {
    pub elapsed: ElapsedMs,
    pub wall: EpochMs,
    /// Whether a majority of the gateways agrees on `wall`.
    pub sure: bool,
    /// A lower bound of the wall time. While no majority agrees, the wall time continues by elapsed time from
    /// the last agreement, so it may lag: a site that was off for a month goes on a month behind. If no
    /// majority ever agreed, this is [`EARLIEST_NOW`].
    pub earliest: EpochMs,
    /// The believed time: see [`super::trust`].
    pub believed: EpochMs,
}

impl Clocks {
    /// Advances to the time of a proposal. Elapsed time never goes back, and never beyond [`MAX_ELAPSED`],
    /// behind which nothing could come due.
    pub fn go_on<Bytes>(&mut self, proposal: &Proposal<Bytes>) {
        self.elapsed = self.elapsed.max(proposal.elapsed).min(MAX_ELAPSED);
        self.wall = EpochMs(proposal.wall.0.clamp(*TIME_RANGE.start(), *TIME_RANGE.end()));
        self.sure = proposal.sure;
        if self.sure {
            self.agreed = Some((self.elapsed, self.wall));
            self.trust.agreed(self.elapsed, self.wall);
        }
    }

    pub fn now(&self) -> MachineTime {
        let Self { elapsed, wall, sure, agreed, trust } = *self;
        let earliest = if agreed.is_some() { wall } else { EARLIEST_NOW };
        // Never later than the wall time allows, which may have leapt back.
        MachineTime { elapsed, wall, sure, earliest, believed: trust.time(elapsed).min(earliest) }
    }

    /// The wall time at `elapsed`, continued by elapsed time from when a majority last agreed on it; `None`
    /// if none ever did.
    pub fn continued(&self, elapsed: ElapsedMs) -> Option<EpochMs> {
        let (at, wall) = self.agreed?;
        Some(wall.plus(i64::try_from(elapsed.since(at)).unwrap_or(i64::MAX)))
    }

    /// Whether a snapshot may contain these clocks.
    pub fn is_sound(&self) -> bool {
        let sound = |wall: EpochMs| TIME_RANGE.contains(&wall.0);
        let agreed_sound = self.agreed.is_none_or(|(elapsed, wall)| elapsed <= self.elapsed && sound(wall));
        self.elapsed <= MAX_ELAPSED && sound(self.wall) && agreed_sound && self.trust.is_sound(self.elapsed)
    }
}

impl MachineTime {
    /// The latest event time that is plausible; `None` while no majority agrees on the wall time.
    pub fn lead(&self) -> Option<EpochMs> {
        self.sure.then(|| self.wall.plus(MAX_LEAD_MS))
    }

    /// The watermark of a stream as it may be reported. A watermark more than [`MAX_LEAD_MS`] ahead of the
    /// believed time is replaced by the believed time less the stream's lateness.
    pub fn told(&self, watermark: EpochMs, class: &StreamClass) -> EpochMs {
        match watermark > self.believed.plus(MAX_LEAD_MS) {
            true => self.believed.plus(-class.lateness_ms),
            false => watermark,
        }
    }
}
