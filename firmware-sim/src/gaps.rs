//! How long devices go without an acknowledgement, and which fault that belongs to.
//!
//! A device *waits* while it has sent or holds something that is not acknowledged. Its *gap* is a stretch of
//! waiting in which no acknowledgement came to it; the site's gap is a stretch in which some device waits and
//! none got one. A device with nothing to wait for has no gap, so that a slow device does not look like a slow site.
//!
//! A fault (a killed gateway, say) is given the longest gap among those that it fell into, each from the fault to
//! the gap's end, and those that began later, each until the next fault at most. Devices that used the gateway in question when it happened are
//! told apart from the others: they have to find another one, the others need only wait for other leaders.
//!
//! Invariant: each gap counts as a whole for its device and for the site, whatever faults it overlaps.

/// The most faults that are recorded; later ones are ignored.
pub const MAX_FAULTS_ENTRIES: usize = 10_000;

/// The stretch without an acknowledgement that one device, or the site, is in.
#[derive(Debug, Clone, Copy, Default)]
struct Stretch {
    since_ms: Option<u64>,
    longest_ms: u64,
}

impl Stretch {
    /// An acknowledgement came, or waiting began or ended. Gives the gap that this ends.
    fn note(&mut self, now: u64, acked: bool, waits: bool) -> Option<(u64, u64)> {
        let ended = self.since_ms.filter(|_| acked || !waits).map(|since| (since, now.max(since)));
        if let Some((from, to)) = ended {
            self.longest_ms = self.longest_ms.max(to - from);
            self.since_ms = None;
        }
        if waits && self.since_ms.is_none() {
            self.since_ms = Some(now);
        }
        ended
    }
}

#[derive(Debug, Clone, Default)]
struct One {
    stretch: Stretch,
    waits: bool,
    gateway: Option<usize>,
}

/// One fault, and the longest gaps after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What was done: `kill` and the like.
    pub kind: &'static str,
    /// When, on the devices' clock.
    pub at_ms: u64,
    /// Nobody got an acknowledgement.
    pub site_ms: u64,
    /// A device that used another gateway got none.
    pub elsewhere_ms: u64,
    /// A device that used this gateway got none.
    pub own_ms: u64,
    /// Bit by bit: the devices that used this gateway.
    own: Vec<u64>,
}

/// The gaps of a fleet.
#[derive(Debug, Default)]
pub struct Gaps {
    devices: Vec<One>,
    site: Stretch,
    waiting: usize,
    faults: Vec<Fault>,
}

impl Gaps {
    /// For this many devices, none of which waits for an acknowledgement yet.
    pub fn new(devices: usize) -> Self {
        Self { devices: vec![One::default(); devices], ..Self::default() }
    }

    /// Something happened to a device: it got acknowledgements, or it waits now, or at another gateway.
    pub fn note(&mut self, now: u64, device: usize, acked: bool, waits: bool, gateway: Option<usize>) {
        let Some(one) = self.devices.get_mut(device) else { return };
        one.gateway = gateway;
        match (std::mem::replace(&mut one.waits, waits), waits) {
            (false, true) => self.waiting += 1,
            (true, false) => self.waiting -= 1,
            _ => {}
        }
        let gap = one.stretch.note(now, acked, waits);
        let all = self.site.note(now, acked, self.waiting > 0);
        self.attribute(gap, |fault, ms| {
            let own = fault.own.get(device / 64).is_some_and(|bits| bits >> (device % 64) & 1 == 1);
            let most = if own { &mut fault.own_ms } else { &mut fault.elsewhere_ms };
            *most = ms.max(*most);
        });
        self.attribute(all, |fault, ms| fault.site_ms = fault.site_ms.max(ms));
    }

    fn attribute(&mut self, gap: Option<(u64, u64)>, mut give: impl FnMut(&mut Fault, u64)) {
        let Some((from, to)) = gap else { return };
        let mut next_ms = u64::MAX;
        for fault in self.faults.iter_mut().rev() {
            if next_ms <= from {
                return;
            }
            if (from..to).contains(&fault.at_ms) {
                give(fault, to - fault.at_ms);
            } else if fault.at_ms < from {
                give(fault, to.min(next_ms) - from);
            }
            next_ms = fault.at_ms;
        }
    }

    /// A fault happens to a gateway now.
    pub fn fault(&mut self, now: u64, kind: &'static str, gateway: usize) {
        if self.faults.len() >= MAX_FAULTS_ENTRIES {
            return;
        }
        let mut own = vec![0u64; self.devices.len().div_ceil(64)];
        for (i, one) in self.devices.iter().enumerate() {
            if let Some(bits) = own.get_mut(i / 64)
                && one.gateway == Some(gateway)
            {
                *bits |= 1 << (i % 64);
            }
        }
        self.faults.push(Fault { kind, at_ms: now, site_ms: 0, elsewhere_ms: 0, own_ms: 0, own });
    }

    /// What there is to say at `now`; stretches that still last count up to then.
    pub fn report(&mut self, now: u64) -> GapReport {
        for device in 0..self.devices.len() {
            let Some(one) = self.devices.get(device) else { continue };
            let (waits, gateway) = (one.waits, one.gateway);
            if waits {
                self.note(now, device, true, true, gateway);
            }
        }
        let device_ms = self.devices.iter().map(|one| one.stretch.longest_ms).max().unwrap_or(0);
        let mut kinds: Vec<KindReport> = Vec::new();
        for fault in &self.faults {
            if !kinds.iter().any(|k| k.kind == fault.kind) {
                let of = |get: fn(&Fault) -> u64| {
                    GapSpread::of(self.faults.iter().filter(|f| f.kind == fault.kind).map(get).collect())
                };
                let count = self.faults.iter().filter(|f| f.kind == fault.kind).count();
                let (site, elsewhere, own) = (of(|f| f.site_ms), of(|f| f.elsewhere_ms), of(|f| f.own_ms));
                kinds.push(KindReport { kind: fault.kind, count, site, elsewhere, own });
            }
        }
        GapReport { site_ms: self.site.longest_ms, device_ms, kinds }
    }
}

/// Of some figures in milliseconds, the one in the middle and the greatest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GapSpread {
    /// Half of them are not above it.
    pub median_ms: u64,
    /// The longest of all.
    pub worst_ms: u64,
}

impl GapSpread {
    fn of(mut figures: Vec<u64>) -> Self {
        figures.sort_unstable();
        let median_ms = figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        Self { median_ms, worst_ms: figures.last().copied().unwrap_or(0) }
    }
}

/// The gaps after all faults of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindReport {
    pub kind: &'static str,
    pub count: usize,
    /// In which nobody got an acknowledgement.
    pub site: GapSpread,
    /// The longest gap of a device at another gateway.
    pub elsewhere: GapSpread,
    /// The longest gap of a device at the gateway with the fault.
    pub own: GapSpread,
}

/// All that is said about gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GapReport {
    /// The longest in which nobody got an acknowledgement.
    pub site_ms: u64,
    /// The longest of one device.
    pub device_ms: u64,
    /// By kind of fault, in the order in which kinds first happened.
    pub kinds: Vec<KindReport>,
}

impl GapReport {
    /// Some lines of a report, each indented.
    pub fn text(&self) -> String {
        let mut text = format!(
            "  longest gap without an acknowledgement: {} ms for the whole site, {} ms for one device\n",
            self.site_ms, self.device_ms
        );
        for kind in &self.kinds {
            let pair = |s: GapSpread| format!("{} / {} ms", s.median_ms, s.worst_ms);
            text.push_str(&format!(
                "    {:>4} x {:<8} (median / worst) site {}, devices at other gateways {}, at this one {}\n",
                kind.count,
                kind.kind,
                pair(kind.site),
                pair(kind.elsewhere),
                pair(kind.own)
            ));
        }
        text
    }

    /// As JSON: `site_ms`, `device_ms`, and `faults` by kind.
    pub fn json(&self) -> serde_json::Value {
        let spread = |s: GapSpread| serde_json::json!({ "median_ms": s.median_ms, "worst_ms": s.worst_ms });
        let kinds = self.kinds.iter().map(|k| {
            let (site, elsewhere, own) = (spread(k.site), spread(k.elsewhere), spread(k.own));
            let value =
                serde_json::json!({ "count": k.count, "site": site, "elsewhere": elsewhere, "own": own });
            (k.kind.to_string(), value)
        });
        let faults: serde_json::Map<String, serde_json::Value> = kinds.collect();
        serde_json::json!({ "site_ms": self.site_ms, "device_ms": self.device_ms, "faults": faults })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: usize = 0;
    const B: usize = 1;

    /// Two devices, at gateways 0 and 1, that get an acknowledgement each 10 ms up to `until`.
    fn busy(until: u64) -> Gaps {
        let mut gaps = Gaps::new(2);
        for now in (0..=until).step_by(10) {
            gaps.note(now, A, now > 0, true, Some(0));
            gaps.note(now, B, now > 0, true, Some(1));
        }
        gaps
    }

    #[test]
    fn who_waits_for_nothing_has_no_gap() {
        let mut gaps = Gaps::new(1);
        gaps.note(0, A, false, true, Some(0));
        gaps.note(5, A, true, false, Some(0));
        gaps.note(900, A, false, true, Some(0));
        gaps.note(907, A, true, false, Some(0));
        assert_eq!(gaps.report(5_000), GapReport { site_ms: 7, device_ms: 7, kinds: vec![] });
    }

    #[test]
    fn one_device_waits_while_the_site_goes_on() {
        let mut gaps = busy(100);
        for now in (110..=400).step_by(10) {
            gaps.note(now, B, true, true, Some(1));
        }
        gaps.note(405, A, true, true, Some(0));
        let report = gaps.report(405);
        assert_eq!((report.site_ms, report.device_ms), (10, 305));
    }

    #[test]
    fn what_still_waits_at_the_end_counts() {
        assert_eq!(busy(100).report(600).device_ms, 500);
        assert_eq!(busy(100).report(600).site_ms, 500);
    }

    #[test]
    fn a_gap_belongs_to_the_faults_it_overlaps_by_what_lies_behind_them() {
        let mut gaps = busy(100);
        gaps.fault(104, "kill", 0);
        gaps.note(150, B, true, true, Some(1));
        gaps.note(300, A, true, true, Some(1));
        gaps.note(300, B, true, true, Some(1));
        // Both are at gateway 1 by now.
        gaps.fault(300, "pause", 1);
        gaps.note(310, A, true, true, Some(1));
        gaps.note(320, B, true, true, Some(1));
        let kinds = gaps.report(320).kinds;
        let at = |i: usize| {
            let k: &KindReport = &kinds[i];
            (k.kind, k.count, k.site.worst_ms, k.elsewhere.worst_ms, k.own.worst_ms)
        };
        assert_eq!(at(0), ("kill", 1, 150, 150, 196));
        assert_eq!(at(1), ("pause", 1, 10, 0, 20));
    }

    #[test]
    fn what_the_next_fault_makes_is_not_the_last_ones() {
        let mut gaps = busy(100);
        gaps.fault(104, "kill", 0);
        gaps.note(110, A, true, true, Some(0));
        gaps.note(120, A, true, true, Some(0));
        gaps.note(120, B, true, true, Some(1));
        gaps.fault(125, "pause", 0);
        gaps.note(900, A, true, true, Some(0));
        gaps.note(900, B, true, true, Some(1));
        let kinds = gaps.report(900).kinds;
        assert_eq!((kinds[0].own.worst_ms, kinds[0].elsewhere.worst_ms), (10, 16));
        assert_eq!((kinds[1].own.worst_ms, kinds[1].elsewhere.worst_ms), (775, 775));
    }

    #[test]
    fn a_gap_over_two_faults_counts_for_both() {
        let mut gaps = busy(100);
        gaps.fault(110, "kill", 0);
        gaps.fault(400, "kill", 1);
        gaps.note(1_000, A, true, false, Some(0));
        gaps.note(1_000, B, true, false, Some(1));
        let kind = &gaps.report(1_000).kinds[0];
        assert_eq!((kind.count, kind.own), (2, GapSpread { median_ms: 600, worst_ms: 890 }));
        assert_eq!(kind.elsewhere, GapSpread { median_ms: 600, worst_ms: 890 });
        assert_eq!(gaps.report(1_000).device_ms, 900);
    }

    #[test]
    fn the_middle_and_the_greatest() {
        assert_eq!(GapSpread::of(vec![]), GapSpread::default());
        assert_eq!(GapSpread::of(vec![5]), GapSpread { median_ms: 5, worst_ms: 5 });
        assert_eq!(GapSpread::of(vec![9, 1, 5]), GapSpread { median_ms: 5, worst_ms: 9 });
        assert_eq!(GapSpread::of(vec![9, 1, 5, 7]), GapSpread { median_ms: 5, worst_ms: 9 });
    }
}
