//! The HTTP API: state of the gateway, recent windows, the quarantine and metrics. `/openapi.json` describes it and
//! `/docs` shows the description. A request that can't be answered gets a problem ([`problem`]).

pub mod access;
pub mod browser;
mod clients;
mod devices;
mod directory;
mod ledger;
mod membership;
mod openapi;
pub mod problem;
pub mod quarantine;
mod recovery;
pub mod routes;
mod site;
mod skipped;
pub mod tables;

use crate::actors::fullness;
use crate::actors::link::{LinkStatus, PeerLinks};
use crate::actors::messages::log::GetLogFigures;
use crate::actors::messages::shard::ShardReport;
use crate::actors::messages::switch::Ask;
use crate::actors::messages::uplink::GetState;
use crate::actors::report::Overview;
use actix::Recipient;
use actix_web::http::Method;
use actix_web::{HttpResponse, web};
use metrics_exporter_prometheus::PrometheusHandle;
use problem::Failure;
use routes::{Routes, delete, get, post};
use selvedge_fabric::machine::MAX_ANSWER_BYTES;
use selvedge_fabric::peer::ShardQuery;
use selvedge_fabric::ring::Member;
use selvedge_fabric::site_questions::SiteQuestion;
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_http::docs;
use selvedge_types::aggregate::Sample;
use selvedge_types::ids::{GatewayId, SiteId};
use selvedge_types::params::{Parameters, bad};
use selvedge_types::question::{SITE_PARAMETERS, SiteQuery};
use selvedge_types::site_window::SiteWindow;
use selvedge_types::time::EpochMs;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A question that was not answered within this time is given up.
const QUERY_WAIT_MS: u64 = 3_000;

/// The state that all handlers share.
pub struct Api {
    pub site: SiteId,
    pub me: GatewayId,
    /// The gateways of the site.
    pub members: Vec<Member>,
    /// Where this gateway keeps its data.
    pub data_dir: PathBuf,
    /// Access to the other parts of the gateway.
    pub overview: Overview,
    /// To the uplink, for its state.
    pub uplink: Recipient<GetState>,
    /// To the log, for its figures.
    pub log: Recipient<GetLogFigures>,
    pub links: PeerLinks,
    pub metrics: PrometheusHandle,
    /// The origin of the switch's times.
    pub epoch: Instant,
    /// How often requests may cause a line in the log.
    pub log_limit: SharedLogLimit,
    /// Whether no token is needed.
    pub open: bool,
    /// The widths, in milliseconds, in which this gateway's settings have streams counted.
    pub widths_ms: BTreeSet<u32>,
}

/// Registers all paths in an application. Returns them, each with its methods.
pub fn routes(app: &mut web::ServiceConfig) -> Vec<(&'static str, Vec<Method>)> {
    let mut all = Routes::new(app);
    all.path("/v1/status", get(status));
    all.path("/v1/aggregates", get(aggregates));
    all.path("/v1/devices", get(devices::list));
    all.path("/v1/devices/{device}", get(devices::one).and(Method::DELETE, devices::retire_device));
    all.path("/v1/devices/{device}/streams/{stream}", delete(devices::retire_stream));
    all.path("/v1/skipped", get(skipped::list));
    all.path("/v1/gateways", get(site::gateways));
    all.path("/v1/gateways/{id}", delete(membership::remove));
    all.path("/v1/gateways/{id}/drain", post(membership::drain));
    all.path("/v1/gateways/{id}/resume", post(membership::resume));
    all.path("/v1/gateways/{id}/weight", post(membership::reweigh));
    all.path("/v1/invitations", get(membership::invitations).and(Method::POST, membership::invite));
    all.path("/v1/invitations/{id}", delete(membership::withdraw));
    all.path("/v1/directory", get(directory::one));
    all.path("/v1/moves/pause", post(membership::pause));
    all.path("/v1/moves/continue", post(membership::go_on));
    all.path("/v1/moves/rate", post(membership::set_rate));
    all.path("/v1/recovery", get(recovery::one).and(Method::POST, recovery::carry_out));
    all.path("/v1/shards", get(site::shards));
    all.path("/v1/shards/{shard}", get(site::shard));
    all.path("/v1/clients", get(clients::list));
    all.path("/v1/ledger/{id}", post(ledger::admit));
    quarantine::routes(&mut all);
    all.path("/metrics", get(metrics_page));
    all.path("/healthz", get(|| async { "ok\n" }));
    all.path("/readyz", get(readyz));
    all.path("/openapi.json", get(openapi::document));
    all.path("/docs", get(docs::page));
    all.path("/docs/page.js", get(docs::script));
    all.path("/docs/page.css", get(docs::style));
    all.end()
}

async fn readyz(api: web::Data<Api>) -> Result<String, Failure> {
    let reports = api.overview.reports().await;
    let reach = api.overview.within_reach().await;
    if let Some(why) = api.overview.trouble(&reports, &reach) {
        return Err(Failure::NotReady(with_refusal(why, &api.links.status())));
    }
    // A site serves without the cloud: a broken uplink is reported, but does not make the gateway unready.
    let uplink = api.uplink.send(GetState).await.ok().and_then(|state| state.trouble);
    let uplink = uplink.map(|why| format!("uplink: {why}\n"));
    let log = api.log.send(GetLogFigures).await.unwrap_or_default();
    let mut warnings = api.overview.warnings(&reports, &log);
    warnings.extend(reach.by_detour.iter().map(|(gateway, through)| {
        format!("there is no link to {gateway}, which is reached through {through}: GET /v1/status says why")
    }));
    let lines = warnings.iter().map(|w| format!("warning: {w}\n")).chain(uplink);
    Ok(std::iter::once("ready\n".to_string()).chain(lines).collect())
}

/// Adds what a peer says that refuses this gateway: which one was removed from the site, or has lost its disk, learns that
/// and what to do from nobody else.
fn with_refusal(why: String, links: &[LinkStatus]) -> String {
    match links.iter().find_map(|link| Some((link.peer, link.refused_us()?))) {
        Some((peer, reason)) => format!("{why}; gateway {} refuses this one: {reason}", peer.0),
        None => why,
    }
}

async fn status(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let reports = api.overview.reports().await;
    let reach = api.overview.within_reach().await;
    let log = api.log.send(GetLogFigures).await.unwrap_or_default();
    let trouble = api.overview.trouble(&reports, &reach);
    // A shard's outbox is the same on all its replicas: only its leader counts it, so that a site's sum is right.
    let leading: Vec<_> = reports.iter().filter(|r| r.status.role == ReplicaRole::Leader).collect();
    let sum = |f: fn(&ShardReport) -> u64| leading.iter().map(|r| f(r)).sum::<u64>();
    let totals = json!({
        "leading": leading.len(),
        "devices": leading.iter().map(|r| r.sizes.devices).sum::<usize>(),
        "streams": leading.iter().map(|r| r.sizes.streams).sum::<usize>(),
        "outbox_batches": sum(|r| r.status.outbox_batches),
        "outbox_bytes": sum(|r| r.status.outbox_bytes),
        "waiting_parts": sum(|r| r.status.waiting_parts),
        "leader_changes": reports.iter().map(|r| r.led).sum::<u64>(),
        "publishes_acked": api.overview.front.acked(),
        "connections": api.overview.front.connections(),
        "quarantined": sum(|r| r.quarantined),
    });
    let (time, ahead_ms) = (api.overview.clock.now(), api.overview.clock.ahead_ms());
    let clock = json!({
        "wall": time.wall.to_string(), "sure": time.sure,
        "outside": api.overview.clock.outside().iter().map(|g| g.0).collect::<Vec<_>>(),
    });
    let peers: Vec<_> = api
        .links
        .status()
        .into_iter()
        .map(|l| {
            let (up, ahead) = (reach.up.contains(&l.peer), ahead_ms.get(&l.peer));
            let through = reach.by_detour.get(&l.peer).map(|g| g.0);
            json!({
                "gateway": l.peer.0, "up": up, "detour": through, "dialled_by": l.dialled_by.map(|g| g.0),
                "trouble": l.trouble, "clock_ahead_ms": ahead,
            })
        })
        .collect();
    let shards: Vec<_> = reports.iter().map(|r| &r.status).collect();
    let bounds: Vec<_> = fullness::fullest(&reports)
        .into_iter()
        .map(|(shard, f)| json!({ "rule": f.rule, "fullest_shard": shard, "used": f.used, "most": f.most, "who": f.who }))
        .collect();
    Ok(HttpResponse::Ok().json(json!({
        "site": api.site, "gateway": api.me.0, "ready": trouble.is_none(), "trouble": trouble,
        "uplink": api.uplink.send(GetState).await.ok(),
        "clock": clock, "log": log, "totals": totals, "peers": peers, "shards": shards, "bounds": bounds,
        "warnings": api.overview.warnings(&reports, &log),
    })))
}

async fn metrics_page(api: web::Data<Api>) -> String {
    let reports = api.overview.reports().await;
    let reach = api.overview.within_reach().await;
    let log = api.log.send(GetLogFigures).await.unwrap_or_default();
    let leading: Vec<_> = reports.iter().filter(|r| r.status.role == ReplicaRole::Leader).collect();
    let gauge = |name: &'static str, value: f64| metrics::gauge!(name).set(value);
    gauge("selvedge_shards", reports.len() as f64);
    gauge("selvedge_shards_leading", leading.len() as f64);
    gauge(
        "selvedge_shards_damaged",
        reports.iter().filter(|r| r.status.role == ReplicaRole::Damaged).count() as f64,
    );
    gauge("selvedge_outbox_batches", leading.iter().map(|r| r.status.outbox_batches as f64).sum());
    gauge("selvedge_outbox_bytes", leading.iter().map(|r| r.status.outbox_bytes as f64).sum());
    gauge("selvedge_connections", api.overview.front.connections() as f64);
    gauge("selvedge_gateways_up", reach.up.len() as f64);
    gauge("selvedge_gateways_by_detour", reach.by_detour.len() as f64);
    metrics::counter!("selvedge_deliveries_dropped_total").absolute(api.overview.front.dropped());
    let sparkplug = api.overview.front.sparkplug();
    metrics::counter!("selvedge_sparkplug_missing_total").absolute(sparkplug.missing);
    metrics::counter!("selvedge_sparkplug_rebirths_total").absolute(sparkplug.rebirths);
    metrics::counter!("selvedge_sparkplug_late_deaths_total").absolute(sparkplug.late_deaths);
    api.links.set_metrics();
    gauge("selvedge_log_room", f64::from(u8::from(log.room)));
    gauge("selvedge_log_segments", log.segments as f64);
    gauge("selvedge_log_overlong_bytes", log.overlong_bytes as f64);
    gauge("selvedge_log_room_hours", log.room_for_hours.map_or(f64::INFINITY, |hours| hours as f64));
    fullness::set_gauges(&reports);
    gauge("selvedge_publishes_held_bytes", api.overview.front.held_bytes() as f64);
    gauge("selvedge_clock_sure", f64::from(u8::from(api.overview.clock.now().sure)));
    gauge("selvedge_clocks_outside", api.overview.clock.outside().len() as f64);
    api.metrics.render()
}

/// The parameters of the query string, in order.
pub type Given = web::Query<Vec<(String, String)>>;

async fn aggregates(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &SITE_PARAMETERS)?;
    let (asked, policy) = SiteQuery::read(&p)?;
    let given = |name: &str, at: EpochMs| p.has(name).then(|| at.to_string());
    let (from, to) = (given("from", asked.from), given("to", asked.to));
    let consistency = if asked.stale { "stale" } else { "linearizable" };
    let (reply, answer) = oneshot::channel();
    let deadline_ms = api.epoch.elapsed().as_millis() as u64 + QUERY_WAIT_MS;
    let query = ShardQuery::of(&asked, MAX_ANSWER_BYTES, QUERY_WAIT_MS as u32);
    // If there is no room, the reply is closed, as it is when too many questions are open.
    let _ = api.overview.ask.try_send(Ask { wanted: SiteQuestion { query, policy, deadline_ms }, reply });
    let wait = Duration::from_millis(QUERY_WAIT_MS + 500);
    let told = match tokio::time::timeout(wait, answer).await {
        Ok(Ok(told)) if !told.is_nothing() => told,
        _ => {
            let why = "no replica could answer: no majority of the device's replicas is within reach, or too many questions are open; try \
                       again, or ask with consistency=stale";
            return Err(Failure::OutOfReach(why.into()));
        }
    };
    let fits = |every: u32| api.widths_ms.iter().any(|width| every.is_multiple_of(*width));
    if let Some(every) = asked.every_ms.filter(|every| told.windows.is_empty() && !fits(*every)) {
        let widths: Vec<_> = api.widths_ms.iter().map(|width| format!("{width} ms")).collect();
        let why =
            format!("{every} ms is not a multiple of a width that this site keeps ({})", widths.join(", "));
        return Err(bad("every", why).into());
    }
    let list: Vec<_> = told.windows.iter().map(|w| window(&api.site, w)).collect();
    let missing = if told.missing.is_empty() { Vec::new() } else { tables::out_of_reach(&api).await };
    Ok(HttpResponse::Ok().json(json!({
        "aggregates": list, "truncated": told.next.is_some(), "next": told.next.map(|p| p.to_string()),
        "from": from, "to": to, "covers_since": told.since.map(|since| since.to_string()),
        "partial": !told.missing.is_empty() || told.lacking > 0, "missing_shards": told.missing,
        "missing_gateways": missing,
        "unreadable_batches": told.lacking, "consistency": consistency,
    })))
}

/// A window in the form in which the node shows it, with whether it still takes readings in time.
fn window(site: &SiteId, w: &SiteWindow) -> Value {
    let a = &w.aggregate;
    let sample = |s: &Sample| json!({ "time": s.time.to_string(), "time_ms": s.time.0, "value": s.value });
    json!({
        "site": site, "device": &*w.device, "stream": &*w.stream,
        "start": w.start.to_string(), "start_ms": w.start.0, "width_ms": w.width_ms,
        "count": a.count, "sum": a.sum(), "mean": a.mean(), "min": a.min, "max": a.max, "stddev": a.stddev(),
        "first": sample(&a.first), "last": sample(&a.last),
        "p50": a.quantile(50), "p90": a.quantile(90), "p99": a.quantile(99),
        "late": w.late, "set_aside": w.set_aside, "missing": w.sequences.missing(), "parts": w.parts, "fingerprint": format!("{:016x}", a.fingerprint),
        "watermark": w.watermark.to_string(), "watermark_ms": w.watermark.0,
        "complete": w.is_complete(), "closed": w.closed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_fabric::link::{LinkCounts, LinkState};
    use selvedge_types::aggregate::Aggregate;
    use selvedge_types::sequences::Sequences;

    /// A window that holds these values.
    pub fn a_window(values: &[f64]) -> SiteWindow {
        let sample = |slot, value| Sample { time: EpochMs(5), slot, index: 0, value };
        let mut aggregate = Aggregate::sketched(sample(0, values[0]));
        (1..).zip(&values[1..]).for_each(|(slot, value)| aggregate.add(sample(slot, *value)));
        SiteWindow {
            device: "d".into(),
            stream: "s".into(),
            width_ms: 10_000,
            start: EpochMs(0),
            aggregate,
            late: 0,
            parts: 1,
            closed: true,
            watermark: EpochMs(10_000),
            set_aside: 0,
            sequences: Sequences::default(),
        }
    }

    #[test]
    fn a_gateway_that_is_refused_names_the_command_that_puts_it_back() {
        let link = |peer, state, trouble: &str| LinkStatus {
            peer: GatewayId(peer),
            state,
            dialled_by: None,
            trouble: Some(trouble.into()),
            counts: LinkCounts::default(),
        };
        let refusal = "10.0.0.2:7081: refused by the other end: g4 was removed from the site; `selvedge gateway invite` makes the token";
        let links = [
            link(1, LinkState::Down, "10.0.0.1:7081: connection refused"),
            link(2, LinkState::Down, refusal),
        ];
        let said = with_refusal("no majority".into(), &links);
        let wanted = "no majority; gateway 2 refuses this one: g4 was removed from the site; `selvedge gateway invite` makes the token";
        assert_eq!(said, wanted);
        let others = [links[0].clone(), link(2, LinkState::Up, refusal)];
        assert_eq!(with_refusal("no majority".into(), &others), "no majority", "another machine was refused");
    }

    #[test]
    fn a_window_says_what_the_node_says_of_it() {
        let told = |values: &[f64]| {
            let row = window(&SiteId::new("plant-7").unwrap(), &a_window(values));
            ["sum", "mean", "stddev", "p50", "p90", "p99"].map(|name| row[name].clone())
        };
        let numbers = |list: [f64; 6]| list.map(Value::from);
        let far = told(&[1_000_000_004.0, 1_000_000_007.0, 1_000_000_013.0, 1_000_000_016.0]);
        let deviation = 4.743416490252569;
        let [p50, p99] = [1_000_000_007.0, 1_000_000_016.0];
        assert_eq!(far, numbers([4_000_000_040.0, 1_000_000_010.0, deviation, p50, p99, p99]));
        assert_eq!(told(&[0.0, 1.0]), numbers([1.0, 0.5, 0.5, 0.0, 1.0, 1.0]));
        let [sum, rest @ ..] = told(&[1e308, 1e308]);
        assert_eq!((sum, rest), (Value::Null, [1e308, 0.0, 1e308, 1e308, 1e308].map(Value::from)));
    }
}
