//! How full the shards with a replica here are: the fullest of each bound as a gauge, and warnings about those near a
//! bound.

use crate::actors::messages::shard::ShardReport;
use selvedge_fabric::machine::Fullness;
use selvedge_fabric::site_state::ReplicaRole;

/// For each rule the fullest bound, with its shard.
pub fn fullest(reports: &[ShardReport]) -> Vec<(u16, &Fullness)> {
    let mut fullest: Vec<(u16, &Fullness)> = Vec::new();
    for report in reports {
        for found in &report.fullness {
            match fullest.iter_mut().find(|(_, known)| known.rule == found.rule) {
                Some(known) if known.1.share() < found.share() => *known = (report.status.shard, found),
                Some(_) => {}
                None => fullest.push((report.status.shard, found)),
            }
        }
    }
    fullest
}

/// For each rule that is nearly reached: where, how full, and what can be done.
pub fn warnings(reports: &[ShardReport]) -> Vec<String> {
    let near = |rule: &str| {
        let of = |r: &&ShardReport| r.fullness.iter().any(|f| f.rule == rule && f.is_near());
        reports.iter().filter(of).count()
    };
    let told = fullest(reports).into_iter().filter(|(_, f)| f.is_near());
    told.map(|(shard, f)| {
        let others = match near(f.rule) - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let who = f.who.as_ref().map(|who| format!(", {who:?}")).unwrap_or_default();
        let Fullness { rule, used, most, .. } = f;
        format!("shard {shard}{others}{who}: {used} of {most} ({rule}); {}", f.advice())
    })
    .collect()
}

/// Sets the gauges of bounds and of table sizes.
pub fn set_gauges(reports: &[ShardReport]) {
    for (_, f) in fullest(reports) {
        metrics::gauge!("selvedge_bound_used", "rule" => f.rule).set(f.used as f64);
        metrics::gauge!("selvedge_bound", "rule" => f.rule).set(f.most as f64);
    }
    // All replicas have the same state: only leaders count it, so that the sum over a site is right.
    let leading = || reports.iter().filter(|r| r.status.role == ReplicaRole::Leader).map(|r| r.sizes);
    let gauge = |name: &'static str, sum: usize| metrics::gauge!(name).set(sum as f64);
    gauge("selvedge_devices", leading().map(|s| s.devices).sum());
    gauge("selvedge_streams", leading().map(|s| s.streams).sum());
    gauge("selvedge_open_parts", leading().map(|s| s.open_parts).sum());
    gauge("selvedge_sessions", leading().map(|s| s.sessions).sum());
    gauge("selvedge_subscriptions", leading().map(|s| s.subscriptions).sum());
    gauge("selvedge_remembered_clients", leading().map(|s| s.clients).sum());
    gauge("selvedge_names_bytes", leading().map(|s| s.names_bytes).sum());
    gauge("selvedge_tombstones", leading().map(|s| s.tombstones).sum());
}
