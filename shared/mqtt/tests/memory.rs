//! What subscriptions and waiting publishes take in memory, and that it is bounded. Alone in its program, and one after the other,
//! for it counts all that is allocated.

use selvedge_mqtt::router::MAX_ROUTER_FILTER_BYTES;
use selvedge_mqtt::{Application, ConnectionLimits, Departure, Handle, Listener, ListenerConfig, Router};
use selvedge_types::mqtt::{Answer, Inbound, Publish, QoS, Subscription};
use selvedge_types::topic::Filter;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Makes the n-th filter.
type Shape = Box<dyn Fn(usize) -> String>;

/// As many filters as are let in, of ever another connection, and what they take.
fn fill(filter: impl Fn(usize) -> String) -> (usize, usize) {
    let router = Router::new();
    let handles: Vec<_> = (0..400).map(|id| Handle::detached(id, &ConnectionLimits::default())).collect();
    let region = Region::new(COUNTED);
    let mut taken = 0;
    for (n, handle) in (0..400_000).zip(handles.iter().flat_map(|h| (0..1_000).map(move |_| h))) {
        let subscription = Subscription {
            filter: Filter::new(&filter(n)).expect("a filter"),
            qos: QoS::AtLeastOnce,
            no_local: false,
        };
        if router.subscribe(handle, &[subscription]).is_err() {
            break;
        }
        taken += 1;
    }
    let change = region.change();
    (taken, change.bytes_allocated - change.bytes_deallocated)
}

/// Keeps publishes, and answers none.
#[derive(Default)]
struct Keeper {
    kept: Mutex<Vec<Publish>>,
    came: Notify,
}

impl Application for Keeper {
    fn inbound(&self, connection: &Arc<Handle>, events: &mut Vec<Inbound>) {
        for event in events.drain(..) {
            match event {
                Inbound::Connect(_) => connection.answer(Answer::Accept(Box::default())),
                Inbound::Publish(publish) => self.kept.lock().expect("whole").push(publish),
                _ => {}
            }
        }
        self.came.notify_one();
    }

    fn departed(&self, _: &Departure) {}
}

/// Publishes that come one by one and wait keep what was read of them, and no more.
async fn what_waits_takes_what_it_has() {
    const COUNT: usize = 60;
    let keeper = Arc::new(Keeper::default());
    let (stop, stopped) = watch::channel(false);
    let listener = Listener::bind(ListenerConfig {
        address: ([127, 0, 0, 1], 0).into(),
        max_connections: 10,
        max_connections_per_address: 10,
        limits: ConnectionLimits { max_inflight_entries: 1_000, ..ConnectionLimits::default() },
    })
    .await
    .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let serving = tokio::spawn(listener.run(keeper.clone(), stopped));
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    socket.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01k").await.expect("it reads");
    let mut connack = [0; 4];
    socket.read_exact(&mut connack).await.expect("it answers");
    let mut region = Region::new(COUNTED);
    for n in 0..COUNT {
        let id = n as u8 + 1;
        let publish = [b"\x32\x0e\x00\x05d/a/t\x00".as_slice(), &[id], b"21.50"].concat();
        socket.write_all(&publish).await.expect("it reads");
        while keeper.kept.lock().expect("whole").len() <= n {
            keeper.came.notified().await;
        }
        if n == 0 {
            region = Region::new(COUNTED); // tables have grown to their first size
        }
    }
    let change = region.change();
    let each = (change.bytes_allocated - change.bytes_deallocated) / (COUNT - 1);
    println!("a waiting publish takes {each} bytes");
    assert!(each < 600, "each of {COUNT} waiting publishes of 16 bytes takes {each} bytes");
    drop(socket);
    stop.send_replace(true);
    serving.await.expect("it ends");
}

fn subscriptions_take_no_more_than_they_are_charged() {
    let levels = |n: usize, last: &str| {
        let level = |i: usize| format!("{n:x}-{i:x}");
        (0..63).map(level).chain([last.to_string()]).collect::<Vec<_>>().join("/")
    };
    let shapes: [(&str, Shape); 5] = [
        ("exact", Box::new(|n| format!("d/device-{n}/temperature"))),
        ("three levels", Box::new(|n| format!("d/device-{n}/+"))),
        ("64 levels", Box::new(move |n| levels(n, "#"))),
        ("one letter a level", Box::new(|n| format!("{n}/{}+", "a/".repeat(62)))),
        ("plus signs", Box::new(|n| format!("+/{}{n}", "+/".repeat(60)))),
    ];
    for (name, filter) in shapes {
        let (taken, bytes) = fill(filter);
        println!("{name}: {taken} filters, {} bytes each, {bytes} in all", bytes / taken);
        assert!(taken > 100, "{name}: {taken} are let in");
        assert!(bytes <= MAX_ROUTER_FILTER_BYTES, "{name}: {taken} filters take {bytes} bytes");
    }
}

#[tokio::test]
async fn what_connections_hold_is_bounded() {
    subscriptions_take_no_more_than_they_are_charged();
    what_waits_takes_what_it_has().await;
}
