//! The load generator against a live broker: what it says is what was done.

use firmware_sim::bench::{self, plan::BenchPlan};
use selvedge_mqtt::broker::Credentials;
use selvedge_mqtt::{Broker, ConnectionLimits, Listener, ListenerConfig};
use std::sync::Arc;

/// A broker on a free port, in a runtime of its own, for as long as what is returned lives.
fn broker(credentials: Option<Credentials>) -> (String, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = "127.0.0.1:0".parse().unwrap();
    let config = ListenerConfig {
        address,
        max_connections: 100,
        max_connections_per_address: 100,
        limits: ConnectionLimits::default(),
    };
    let listener = runtime.block_on(Listener::bind(config)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let (stop, stopping) = tokio::sync::watch::channel(false);
    runtime.spawn(async move {
        listener.run(Arc::new(Broker::new(credentials)), stopping).await;
        drop(stop);
    });
    (target, runtime)
}

fn plan(target: String) -> BenchPlan {
    BenchPlan {
        targets: vec![target],
        connections: 3,
        in_flight: 10,
        devices: 7,
        seconds: 1,
        warmup: 0,
        ..BenchPlan::default()
    }
}

#[test]
fn closed_and_open_loop_count_every_acknowledgement() {
    let (target, _runtime) = broker(None);
    let own = vec![std::process::id()];
    let closed =
        bench::run(&BenchPlan { watch: own, subscriber: true, threads: 2, ..plan(target.clone()) }).unwrap();
    assert!(closed.acked > 0 && closed.acked_per_s > 0.0, "{closed}");
    assert_eq!((closed.unacknowledged, closed.skipped), (0, 0));
    assert!(closed.broker.largest_resident_bytes > 100_000, "{closed}");
    let l = closed.latency_us;
    assert!(l.p50 <= l.p99 && l.p99 <= l.max, "{l:?}");

    let open = bench::run(&BenchPlan { rate: 300.0, ..plan(target.clone()) }).unwrap();
    assert_eq!((open.published, open.unacknowledged), (open.acked, 0));
    assert!(open.published > 0 && open.published <= 302, "{open}"); // no more than were due

    let idle = bench::run(&BenchPlan { idle: true, ..plan(target) }).unwrap();
    assert_eq!((idle.published, idle.acked), (0, 0));
}

#[test]
fn who_does_not_get_in_is_told_where_and_why() {
    let nobody = format!("127.0.0.1:{}", selvedge_ports::claim(1).unwrap());
    let said = bench::run(&plan(nobody.clone())).unwrap_err();
    assert!(said.contains(&nobody) && said.contains("connection 1 of 3"), "{said}");
    let wanted = Credentials { username: "u".into(), password: "p".into() };
    let (target, _runtime) = broker(Some(wanted));
    let said = bench::run(&plan(target.clone())).unwrap_err();
    assert!(said.contains("refuses"), "{said}");
    let known = BenchPlan { username: "u".into(), password: "p".into(), ..plan(target) };
    bench::run(&BenchPlan { idle: true, ..known }).unwrap();
}
