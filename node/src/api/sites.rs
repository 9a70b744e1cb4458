//! `/v1/sites`: the sites as their gateways report them, and queries that the site itself answers.

use super::gaps::hole_as_json;
use super::problem::Failure;
use super::routes::Asker;
use super::{Api, Given};
use actix_web::{HttpResponse, web};
use selvedge_guard::access::Caller;
use selvedge_node_core::questions::Ask;
use selvedge_node_core::row::{More, Row, RowTable};
use selvedge_node_core::sites::{HeardGateway, SiteShard, Sites};
use selvedge_node_core::table::{ColumnKind, Field, JsonRows, Table};
use selvedge_types::ids::{GatewayId, SiteId};
use selvedge_types::params::{BadParameter, Parameters, bad};
use selvedge_types::question::{MAX_WAIT_MS, SITE_PARAMETERS, SiteQuery};
use selvedge_types::report::{ReportedMember, ReportedMove, ReportedState, SkippedField};
use selvedge_types::time::EpochMs;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// The parameter that a query to a site has besides the [`SITE_PARAMETERS`].
pub const TIMEOUT: &str = "timeout";

/// The default time to wait for the site.
const WAIT_MS: i64 = 5_000;
/// The most holes that are shown for a site: those found last.
const MAX_SITE_HOLES_ENTRIES: u32 = 100;
/// The shortest time to wait that makes sense.
const LEAST_WAIT_MS: i64 = 500;

pub(super) async fn sites(api: web::Data<Api>, Asker(caller): Asker) -> HttpResponse {
    let list: Vec<_> = api.edge.look(|now_ms, sites| {
        let seen = sites.names().filter(|site| caller.sees(site.as_str()));
        seen.map(|site| overview(now_ms, sites, site, &sites.shards(now_ms, site))).collect()
    });
    HttpResponse::Ok().json(json!({ "now": EpochMs::from(SystemTime::now()).to_string(), "sites": list }))
}

pub(super) async fn site(
    api: web::Data<Api>,
    Asker(caller): Asker,
    name: web::Path<String>,
) -> Result<HttpResponse, Failure> {
    let site = known(&api, &caller, &name)?;
    let mut whole = api.edge.look(|now_ms, sites| {
        let shards = sites.shards(now_ms, &site);
        let mut whole = overview(now_ms, sites, &site, &shards);
        whole["shards"] = shards.iter().map(shard).collect();
        whole
    });
    let newest =
        api.reader.find_holes(&[site.to_string()], EpochMs(i64::MIN), MAX_SITE_HOLES_ENTRIES).await?;
    whole["holes"] = newest.iter().map(hole_as_json).collect();
    whole["now"] = EpochMs::from(SystemTime::now()).to_string().into();
    Ok(HttpResponse::Ok().json(whole))
}

fn known(api: &Api, caller: &Caller, name: &str) -> Result<SiteId, Failure> {
    if !caller.sees(name) {
        return Err(Failure::Site(name.chars().take(40).collect()));
    }
    let found = api.sites.iter().find(|site| site.as_str() == name);
    found.cloned().ok_or_else(|| Failure::NoSite(name.chars().take(40).collect()))
}

/// A site without its shards.
fn overview(now_ms: u64, sites: &Sites, site: &SiteId, shards: &[SiteShard]) -> Value {
    let nobody = BTreeMap::new();
    let heard = sites.gateways(site).unwrap_or(&nobody);
    // Gateways that belong to the site but never reported are shown too.
    let newest = sites.newest(now_ms, site).map(|newest| &newest.report);
    let named = newest.map(|report| &report.members[..]).unwrap_or_default();
    let members: BTreeMap<GatewayId, &ReportedMember> = named.iter().map(|m| (m.gateway, m)).collect();
    let mut all: Vec<GatewayId> = members.keys().chain(heard.keys()).copied().collect();
    all.sort_unstable();
    all.dedup();
    let leads = |g: &GatewayId| shards.iter().filter(|s| s.led.is_some_and(|(by, _)| by == *g)).count();
    let holds = |g: &GatewayId| shards.iter().filter(|s| s.replicas.contains(g)).count();
    let shown = |g: &GatewayId| {
        let mut shown = gateway(now_ms, *g, heard.get(g), leads(g));
        place(&mut shown, members.get(g).copied(), holds(g));
        shown
    };
    let gateways: Vec<_> = all.iter().map(shown).collect();
    let moves: Vec<_> = sites.moves(now_ms, site).iter().map(under_way).collect();
    let of = |f: fn(&selvedge_types::report::Led) -> u64| -> u64 {
        shards.iter().filter_map(|s| s.led.as_ref()).map(|(_, led)| f(led)).sum()
    };
    json!({
        "site": site,
        "gateways": gateways,
        "moves": moves,
        "moves_paused": newest.is_some_and(|report| report.paused),
        "live": sites.live(now_ms, site).len(),
        "shard_count": shards.len(),
        "shards_led": shards.iter().filter(|s| s.led.is_some()).count(),
        "outbox_batches": of(|led| led.last - led.cursor),
        "outbox_bytes": of(|led| led.outbox_bytes),
        "waiting_parts": of(|led| led.waiting_parts),
    })
}

/// Adds a gateway's place in the site. One that the newest report does not name any more is gone.
fn place(shown: &mut Value, member: Option<&ReportedMember>, replicas: usize) {
    let state = member.map_or(ReportedState::Gone, |m| m.state);
    shown["state"] = state.word().into();
    shown["weight"] = member.map(|m| m.weight).into();
    shown["zone"] = member.and_then(|m| m.zone.as_deref()).into();
    shown["witness"] = member.is_some_and(|m| m.witness).into();
    shown["replicas"] = replicas.into();
    shown["wanted_replicas"] = member.map_or(0, |m| m.wanted).into();
}

/// A move; its shard is null for the directory group.
fn under_way(m: &ReportedMove) -> Value {
    json!({
        "shard": m.shard.map(|s| s.0), "from": m.leaves.map(|g| g.0), "to": m.comes.map(|g| g.0), "phase": m.phase.word(),
        "done_bytes": m.done_bytes, "total_bytes": (m.total_bytes > 0).then_some(m.total_bytes),
    })
}

fn gateway(now_ms: u64, id: GatewayId, heard: Option<&HeardGateway>, leads: usize) -> Value {
    let Some(heard) = heard else {
        return json!({ "gateway": id.0, "heard": null, "silent": true, "leads": 0 });
    };
    let (r, silent) = (&heard.report, heard.is_silent(now_ms));
    let skipped = |s: &SkippedField| json!({ "device": s.device, "field": s.field, "why": s.why, "count": s.count, "last": s.last.to_string() });
    let skipped: Vec<_> = r.skipped.iter().map(skipped).collect();
    json!({
        "gateway": id.0,
        "heard": heard.at.to_string(), "heard_ms_ago": now_ms.saturating_sub(heard.at_ms), "silent": silent,
        "ready": !silent && r.trouble.is_none(), "trouble": r.trouble, "leads": leads,
        "release": r.release, "start": r.start, "uptime_ms": r.uptime_ms,
        "clock_ahead_ms": r.at.0.saturating_sub(heard.at.0),
        "connections": r.connections, "publishes_acked": r.acked,
        "questions": r.questions, "question_ms": r.question_ms, "skipped": skipped,
    })
}

/// The facts about a shard that a drawing of the ring needs, and that show what is stuck.
fn shard(shard: &SiteShard) -> Value {
    let replicas: Vec<_> = shard.replicas.iter().map(|g| g.0).collect();
    let Some((leader, led)) = &shard.led else {
        return json!({ "shard": shard.shard.0, "replicas": replicas, "leader": null });
    };
    json!({
        "shard": shard.shard.0, "replicas": replicas, "leader": leader.0,
        "cursor": led.cursor, "last": led.last, "outbox_batches": led.last - led.cursor,
        "outbox_bytes": led.outbox_bytes, "waiting_parts": led.waiting_parts, "waiting_ms": led.waiting_ms,
    })
}

pub(super) async fn aggregates(
    api: web::Data<Api>,
    Asker(caller): Asker,
    name: web::Path<String>,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let site = known(&api, &caller, &name)?;
    let ask = read(site.clone(), given.into_inner())?;
    let consistency = if ask.about.stale { "stale" } else { "linearizable" };
    let answered = api.edge.ask(ask).await?;
    let mut windows = answered.windows;
    let (next, missing) = (windows.next.take(), std::mem::take(&mut windows.missing));
    let (since, lacking) = (windows.since, windows.lacking);
    let mut table = RowTable::new(None, More::default());
    let mut closed = vec![];
    for window in windows.into_windows() {
        closed.push(window.closed);
        table.rows.push(Row::of_site(&site, window));
    }
    let mut rows = serde_json::to_value(JsonRows(&table)).unwrap_or_default();
    for (row, closed) in rows.as_array_mut().into_iter().flatten().zip(closed) {
        row["closed"] = closed.into();
    }
    Ok(HttpResponse::Ok().json(json!({
        "aggregates": rows,
        "truncated": next.is_some(),
        "next": next.map(|place| place.to_string()),
        "source": "edge",
        "gateway": answered.gateway.0,
        "consistency": consistency,
        "covers_since": since.map(|since| since.to_string()),
        "unreadable_batches": lacking,
        "partial": !missing.is_empty() || lacking > 0,
        "missing_shards": missing.iter().map(|s| s.0).collect::<Vec<_>>(),
    })))
}

/// The columns of a site's windows: those of a stored window, and `closed`.
pub(super) fn fields() -> Vec<Field> {
    let meaning = "Whether the window has closed: false while a part of it is open.";
    let closed = Field::new("closed", ColumnKind::Flag).meaning(meaning);
    [RowTable::new(None, More::default()).fields(), &[closed]].concat()
}

/// Reads the parameters of a query to a site.
///
/// # Errors
/// Names the parameter that is wrong.
pub fn read(site: SiteId, given: Vec<(String, String)>) -> Result<Ask, BadParameter> {
    let known = [&SITE_PARAMETERS[..], &[TIMEOUT]].concat();
    let p = Parameters::new(given, &known)?;
    let (about, policy) = SiteQuery::read(&p)?;
    let wait_ms = p.duration(TIMEOUT)?.unwrap_or(WAIT_MS);
    if !(LEAST_WAIT_MS..=i64::from(MAX_WAIT_MS)).contains(&wait_ms) {
        return Err(bad(TIMEOUT, format!("is not between {LEAST_WAIT_MS}ms and {}s", MAX_WAIT_MS / 1_000)));
    }
    Ok(Ask { site, about, policy, wait_ms: wait_ms as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::balance::Policy;
    use selvedge_types::question::SiteWindowPlace;

    fn asked(given: &[(&str, &str)]) -> Result<Ask, BadParameter> {
        let given = given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        read(SiteId::new("plant-7").unwrap(), given)
    }

    #[test]
    fn a_question_is_read_and_what_is_wrong_is_named() {
        let plain = asked(&[("device", "press-*")]).unwrap();
        assert_eq!((plain.about.stale, plain.policy, plain.wait_ms), (false, Policy::PowerOfTwo, 5_000));
        let after = SiteWindowPlace { device: "d".into(), stream: "s".into(), start: EpochMs(5) };
        let text = after.to_string();
        let full = asked(&[
            ("device", "d"),
            ("every", "10s"),
            ("consistency", "stale"),
            ("policy", "round_robin"),
            ("timeout", "2s"),
            ("after", &text),
            ("limit", "7"),
        ])
        .unwrap();
        assert_eq!((full.about.every_ms, full.about.limit, full.about.after), (Some(10_000), 7, Some(after)));
        assert_eq!((full.about.stale, full.policy, full.wait_ms), (true, Policy::RoundRobin, 2_000));
        for (given, named) in [
            (&[][..], "device"),
            (&[("device", "d"), ("every", "60d")], "every"),
            (&[("device", "d"), ("timeout", "31s")], "timeout"),
            (&[("device", "d"), ("timeout", "1ms")], "timeout"),
            (&[("device", "d"), ("group", "all")], "group"),
        ] {
            assert_eq!(asked(given).err().map(|bad| bad.parameter).as_deref(), Some(named));
        }
    }
}
