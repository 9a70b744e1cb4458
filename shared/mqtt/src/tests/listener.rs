//! The listener and the broker over loopback, with a client of another make, and with raw sockets.

use crate::broker::Credentials;
use crate::*;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet};
use selvedge_types::mqtt::*;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A listener that ends with the test.
struct Served {
    port: u16,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn serve(app: Arc<dyn Application>, limits: ConnectionLimits, max_connections: usize) -> Served {
    let max_connections_per_address = max_connections;
    let address = ([127, 0, 0, 1], 0).into();
    serve_at(app, ListenerConfig { address, max_connections, max_connections_per_address, limits }).await
}

async fn serve_at(app: Arc<dyn Application>, config: ListenerConfig) -> Served {
    let listener = Listener::bind(config).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = watch::channel(false);
    Served { port, stop, task: tokio::spawn(listener.run(app, stopped)) }
}

impl Served {
    async fn raw(&self, connect: &[u8]) -> TcpStream {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        socket.write_all(connect).await.unwrap();
        socket
    }

    fn options(&self, name: &str) -> MqttOptions {
        let mut options = MqttOptions::new(name, "127.0.0.1", self.port);
        options.set_keep_alive(Duration::from_secs(30));
        options
    }
}

async fn expect(socket: &mut TcpStream, want: &[u8]) {
    let mut got = vec![0; want.len()];
    socket.read_exact(&mut got).await.unwrap();
    assert_eq!(got, want, "{got:02x?}");
}

/// Polls until an event is what is wanted; what it was.
async fn until<T>(events: &mut EventLoop, mut want: impl FnMut(&Packet) -> Option<T>) -> T {
    loop {
        if let Event::Incoming(packet) = events.poll().await.unwrap()
            && let Some(found) = want(&packet)
        {
            return found;
        }
    }
}

#[tokio::test]
async fn clients_of_version_3_publish_and_subscribe() {
    let served = serve(Arc::new(Broker::new(None)), ConnectionLimits::default(), 10).await;
    let (sub, mut sub_events) = AsyncClient::new(served.options("sub"), 10);
    sub.subscribe("t/#", rumqttc::QoS::AtLeastOnce).await.unwrap();
    until(&mut sub_events, |p| matches!(p, Packet::SubAck(_)).then_some(())).await;
    let (publisher, mut pub_events) = AsyncClient::new(served.options("pub"), 100);
    for (n, qos) in [rumqttc::QoS::AtMostOnce, rumqttc::QoS::AtLeastOnce, rumqttc::QoS::ExactlyOnce]
        .into_iter()
        .enumerate()
    {
        publisher.publish("t/x", qos, false, vec![n as u8]).await.unwrap();
    }
    let (mut acked, mut completed) = (false, false);
    until(&mut pub_events, |p| {
        acked |= matches!(p, Packet::PubAck(_));
        completed |= matches!(p, Packet::PubComp(_));
        (acked && completed).then_some(())
    })
    .await;
    let mut got = Vec::new();
    until(&mut sub_events, |p| {
        if let Packet::Publish(p) = p {
            got.push((p.payload[0], p.qos as u8));
        }
        (got.len() == 3).then_some(())
    })
    .await;
    assert_eq!(got, [(0, 0), (1, 1), (2, 1)]);
    served.stop.send(true).unwrap();
    served.task.await.unwrap();
}

#[tokio::test]
async fn clients_of_version_5_publish_and_subscribe() {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::Packet;
    use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
    async fn until(events: &mut EventLoop, mut want: impl FnMut(&Packet) -> bool) {
        loop {
            if let Event::Incoming(packet) = events.poll().await.unwrap()
                && want(&packet)
            {
                return;
            }
        }
    }
    let served = serve(Arc::new(Broker::new(None)), ConnectionLimits::default(), 10).await;
    let options = |name: &str| {
        let mut options = MqttOptions::new(name, "127.0.0.1", served.port);
        options.set_keep_alive(Duration::from_secs(30));
        options
    };
    let (sub, mut sub_events) = AsyncClient::new(options("sub"), 10);
    sub.subscribe("t/+", QoS::ExactlyOnce).await.unwrap();
    until(&mut sub_events, |p| matches!(p, Packet::SubAck(_))).await;
    let (publisher, mut pub_events) = AsyncClient::new(options("pub"), 100);
    for (n, qos) in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce].into_iter().enumerate() {
        publisher.publish("t/x", qos, false, vec![n as u8]).await.unwrap();
    }
    let (mut acked, mut completed) = (false, false);
    until(&mut pub_events, |p| {
        acked |= matches!(p, Packet::PubAck(_));
        completed |= matches!(p, Packet::PubComp(_));
        acked && completed
    })
    .await;
    let mut got = Vec::new();
    until(&mut sub_events, |p| {
        if let Packet::Publish(p) = p {
            got.push((p.payload[0], p.qos as u8));
        }
        got.len() == 3
    })
    .await;
    assert_eq!(got, [(0, 0), (1, 1), (2, 1)]);
}

const CONNECT: &[u8] = super::rig::V5;
const CONNACK_BYTES: usize = 22;

async fn connack(socket: &mut TcpStream) {
    let mut got = [0; CONNACK_BYTES];
    socket.read_exact(&mut got).await.unwrap();
    assert_eq!(got[0], 0x20);
}

#[tokio::test]
async fn a_client_id_is_taken_over() {
    let served = serve(Arc::new(Broker::new(None)), ConnectionLimits::default(), 10).await;
    let mut first = served.raw(CONNECT).await;
    connack(&mut first).await;
    let mut second = served.raw(CONNECT).await;
    connack(&mut second).await;
    expect(&mut first, b"\xe0\x02\x8e\x00").await;
    assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 0);
    second.write_all(b"\xc0\x00").await.unwrap();
    expect(&mut second, b"\xd0\x00").await;
}

#[tokio::test]
async fn a_will_is_routed_when_its_client_breaks_off() {
    let served = serve(Arc::new(Broker::new(None)), ConnectionLimits::default(), 10).await;
    let mut sub = served.raw(super::rig::V311).await;
    expect(&mut sub, b"\x20\x02\x00\x00").await;
    sub.write_all(b"\x82\x06\x00\x01\x00\x01w\x00").await.unwrap();
    expect(&mut sub, b"\x90\x03\x00\x01\x00").await;
    let mut other = served.raw(b"\x10\x13\x00\x04MQTT\x04\x0e\x00\x0a\x00\x01d\x00\x01w\x00\x01!").await;
    expect(&mut other, b"\x20\x02\x00\x00").await;
    drop(other);
    expect(&mut sub, b"\x30\x04\x00\x01w!").await;
}

#[tokio::test]
async fn credentials_are_checked() {
    let credentials = Credentials { username: "me".into(), password: "s3cr".into() };
    assert!(!format!("{credentials:?}").contains("s3cr"));
    let served = serve(Arc::new(Broker::new(Some(credentials))), ConnectionLimits::default(), 10).await;
    for (connect, code) in [
        (&b"\x10\x17\x00\x04MQTT\x04\xc2\x00\x0a\x00\x01c\x00\x02me\x00\x04s3cr"[..], 0),
        (b"\x10\x17\x00\x04MQTT\x04\xc2\x00\x0a\x00\x01c\x00\x02me\x00\x04s3cx", 4),
        (b"\x10\x16\x00\x04MQTT\x04\xc2\x00\x0a\x00\x01c\x00\x02me\x00\x03s3c", 4),
        (b"\x10\x17\x00\x04MQTT\x04\xc2\x00\x0a\x00\x01c\x00\x02mf\x00\x04s3cr", 4),
        (super::rig::V311, 4),
    ] {
        let mut socket = served.raw(connect).await;
        expect(&mut socket, &[0x20, 2, 0, code]).await;
    }
}

#[tokio::test]
async fn too_many_connections_are_turned_away_and_a_freed_place_is_used() {
    let served = serve(Arc::new(Broker::new(None)), ConnectionLimits::default(), 1).await;
    let mut first = served.raw(CONNECT).await;
    connack(&mut first).await;
    let mut second = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    assert!(second.read(&mut [0; 8]).await.unwrap_or(0) == 0);
    first.write_all(b"\xe0\x00").await.unwrap();
    assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 0);
    drop(first);
    loop {
        // Until the place is free, any step may fail.
        let mut third = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
        if third.write_all(CONNECT).await.is_ok() && third.read(&mut [0; 8]).await.is_ok_and(|n| n > 0) {
            break;
        }
    }
}

#[tokio::test]
async fn shutting_down_tells_the_clients_and_ends() {
    let served = serve(Arc::new(Broker::new(None)), ConnectionLimits::default(), 10).await;
    let mut socket = served.raw(CONNECT).await;
    connack(&mut socket).await;
    served.stop.send(true).unwrap();
    expect(&mut socket, b"\xe0\x02\x8b\x00").await;
    assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
    drop(socket);
    served.task.await.unwrap();
    assert!(TcpStream::connect(("127.0.0.1", served.port)).await.is_err());
}

/// Holds acknowledgements back until it is told.
struct Holding {
    held: Mutex<Vec<(Arc<Handle>, u64)>>,
    seen: mpsc::UnboundedSender<Inbound>,
}

impl Application for Holding {
    fn inbound(&self, handle: &Arc<Handle>, events: &mut Vec<Inbound>) {
        for event in events.drain(..) {
            match &event {
                Inbound::Connect(_) => handle.answer(Answer::Accept(Box::default())),
                Inbound::Publish(p) if p.qos != QoS::AtMostOnce => {
                    self.held.lock().unwrap().push((handle.clone(), p.token));
                }
                _ => {}
            }
            let _ = self.seen.send(event);
        }
    }

    fn departed(&self, _: &Departure) {}
}

#[tokio::test]
async fn pings_pass_held_acks_and_late_acks_pass_in_order() {
    let (seen, mut events) = mpsc::unbounded_channel();
    let app = Arc::new(Holding { held: Mutex::new(Vec::new()), seen });
    let served = serve(app.clone(), ConnectionLimits::default(), 10).await;
    let mut socket = served.raw(super::rig::V311).await;
    expect(&mut socket, b"\x20\x02\x00\x00").await;
    let publishes: Vec<u8> = (1..=200).flat_map(|id| super::rig::publish3(0x32, id)).collect();
    socket.write_all(&[&publishes[..], b"\xc0\x00"].concat()).await.unwrap();
    expect(&mut socket, b"\xd0\x00").await;
    let held = std::mem::take(&mut *app.held.lock().unwrap());
    assert_eq!(held.len(), 200);
    let handle = held[0].0.clone();
    assert_eq!(handle.id(), 1);
    assert_eq!(handle.peer_addr(), socket.local_addr().unwrap());
    handle.answers(held.iter().rev().map(|(_, token)| Answer::Ack(Ack::kept(*token))));
    let want: Vec<u8> = (1..=200).flat_map(|id| [0x40, 2, 0, id]).collect();
    expect(&mut socket, &want).await;
    drop(socket);
    loop {
        if let Some(Inbound::Closed(closed)) = events.recv().await {
            assert_eq!(closed.reason, CloseReason::Gone);
            break;
        }
    }
    handle.answer(Answer::Ack(Ack::kept(1)));
    let late = Delivery { topic: "a".into(), payload: "x".into(), qos: QoS::AtLeastOnce };
    assert_eq!(handle.deliver(late), Err(NotDelivered::Closed));
}

#[tokio::test]
async fn undelivered_messages_come_back_when_the_connection_ends() {
    let (seen, mut events) = mpsc::unbounded_channel();
    let app = Arc::new(Holding { held: Mutex::new(Vec::new()), seen });
    let served =
        serve(app.clone(), ConnectionLimits { max_unacked_entries: 1, ..ConnectionLimits::default() }, 10)
            .await;
    let mut socket = served.raw(super::rig::V311).await;
    expect(&mut socket, b"\x20\x02\x00\x00").await;
    socket.write_all(&super::rig::publish3(0x32, 1)).await.unwrap();
    let handle = loop {
        if let Some(Inbound::Publish(_)) = events.recv().await {
            break app.held.lock().unwrap()[0].0.clone();
        }
    };
    for (payload, qos) in [("1", QoS::AtLeastOnce), ("2", QoS::AtLeastOnce), ("3", QoS::AtMostOnce)] {
        handle.deliver(Delivery { topic: "a".into(), payload: payload.into(), qos }).unwrap();
    }
    expect(&mut socket, b"\x32\x06\x00\x01a\x00\x011").await;
    handle.close(CloseReason::Administrative);
    let closed = loop {
        if let Some(Inbound::Closed(closed)) = events.recv().await {
            break closed;
        }
    };
    assert_eq!(closed.reason, CloseReason::Administrative);
    let payloads: Vec<_> = closed.undelivered.iter().map(|d| d.payload.to_vec()).collect();
    assert_eq!(payloads, [b"1", b"2"]);
}

#[tokio::test]
async fn deliveries_beyond_one_write_all_arrive() {
    let (seen, mut events) = mpsc::unbounded_channel();
    let app = Arc::new(Holding { held: Mutex::new(Vec::new()), seen });
    let served = serve(app.clone(), ConnectionLimits::default(), 10).await;
    let mut socket = served.raw(super::rig::V311).await;
    expect(&mut socket, b"\x20\x02\x00\x00").await;
    socket.write_all(&super::rig::publish3(0x32, 1)).await.unwrap();
    while !matches!(events.recv().await, Some(Inbound::Publish(_))) {}
    let handle = app.held.lock().unwrap()[0].0.clone();
    let payload: bytes::Bytes = vec![7; 60_000].into();
    for _ in 0..16 {
        let delivery = Delivery { topic: "a".into(), payload: payload.clone(), qos: QoS::AtMostOnce };
        handle.deliver(delivery).unwrap();
    }
    let mut all = vec![0; 16 * (60_000 + 3 + 4)];
    socket.read_exact(&mut all).await.unwrap();
    assert_eq!(handle.dropped(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_in_bounded_time() {
    let (seen, mut events) = mpsc::unbounded_channel();
    let app = Arc::new(Holding { held: Mutex::new(Vec::new()), seen });
    let served =
        serve(app.clone(), ConnectionLimits { write_stall_ms: 50, ..ConnectionLimits::default() }, 10).await;
    let mut socket = served.raw(super::rig::V311).await;
    expect(&mut socket, b"\x20\x02\x00\x00").await;
    socket.write_all(&super::rig::publish3(0x32, 1)).await.unwrap();
    let closed = loop {
        match events.recv().await {
            Some(Inbound::Publish(_)) => {
                let handle = app.held.lock().unwrap()[0].0.clone();
                tokio::spawn(async move {
                    let payload: bytes::Bytes = vec![0; 60_000].into();
                    let delivery =
                        || Delivery { topic: "a".into(), payload: payload.clone(), qos: QoS::AtMostOnce };
                    while handle.deliver(delivery()) != Err(NotDelivered::Closed) {
                        tokio::task::yield_now().await;
                    }
                });
            }
            Some(Inbound::Closed(closed)) => break closed,
            _ => {}
        }
    };
    assert_eq!(closed.reason, CloseReason::SlowConsumer);
    drop(socket);
}

#[tokio::test]
async fn a_silent_socket_is_closed_when_no_connect_comes() {
    let limits = ConnectionLimits { connect_wait_ms: 20, ..ConnectionLimits::default() };
    let served = serve(Arc::new(Broker::new(None)), limits, 10).await;
    let mut socket = TcpStream::connect(("127.0.0.1", served.port)).await.unwrap();
    assert_eq!(socket.read(&mut [0; 8]).await.unwrap(), 0);
}

/// A broker that keeps what it is told of ends.
struct Noting {
    broker: Broker,
    departed: mpsc::UnboundedSender<Departure>,
}

impl Application for Noting {
    fn inbound(&self, handle: &Arc<Handle>, events: &mut Vec<Inbound>) {
        self.broker.inbound(handle, events);
    }

    fn departed(&self, departure: &Departure) {
        let _ = self.departed.send(departure.clone());
    }
}

#[tokio::test]
async fn each_end_and_each_refusal_is_told_with_client_reason_topic_and_size() {
    let (departed, mut departures) = mpsc::unbounded_channel();
    let app = Arc::new(Noting { broker: Broker::new(None), departed });
    let limits = ConnectionLimits { max_packet_bytes: 1_000, ..ConnectionLimits::default() };
    let served = serve(app, limits, 3).await;
    let mut first = served.raw(super::rig::V311).await;
    expect(&mut first, b"\x20\x02\x00\x00").await;
    first.write_all(&super::rig::publish3(0x32, 1)).await.unwrap();
    expect(&mut first, &[0x40, 2, 0, 1]).await;
    let mut second = served.raw(super::rig::V5).await;
    let told = departures.recv().await.unwrap();
    assert_eq!((told.reason, told.client_id.as_deref()), (CloseReason::TakenOver, Some("c")));
    assert_eq!((told.version, told.peer), (Some(Version::V311), first.local_addr().unwrap()));
    let traffic = Traffic { publishes_in: 1, publishes_out: 0, bytes_in: 23, bytes_out: 8 };
    assert_eq!((told.traffic, told.culprit), (traffic, None));
    connack(&mut second).await;
    second.write_all(b"\x32\xd0\x0f\x00\x05a/b/c\x00\x01").await.unwrap();
    let told = departures.recv().await.unwrap();
    assert_eq!((told.reason, told.reason.bound()), (CloseReason::PacketTooLarge, Some("max_packet_bytes")));
    assert_eq!(told.culprit.as_deref(), Some(&Culprit::new("a/b/c", 2_000)));
    let mut stranger = served.raw(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(stranger.read(&mut [0; 8]).await.unwrap_or(0), 0);
    let told = departures.recv().await.unwrap();
    assert_eq!((told.reason.label(), told.client_id), ("malformed", None));
}

/// Publishes of so many bytes to `a` at QoS 1, as fast as they are taken; acknowledgements are read beside it.
async fn publish_all(served: &Served, count: u16, bytes: usize) -> JoinHandle<()> {
    let mut socket = served.raw(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x1e\x00\x01p").await;
    expect(&mut socket, b"\x20\x02\x00\x00").await;
    let (mut from, mut to) = socket.into_split();
    tokio::spawn(async move {
        let writing = tokio::spawn(async move {
            for id in 1..=count {
                let length = 2 + 1 + 2 + bytes;
                let head = [0x32, length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8];
                let id = id.to_be_bytes();
                to.write_all(&[&head[..], b"\x00\x01a", &id, &vec![7; bytes]].concat()).await.unwrap();
            }
        });
        let mut acks = vec![0; 4 * usize::from(count)];
        from.read_exact(&mut acks).await.unwrap();
        writing.await.unwrap();
    })
}

#[tokio::test]
async fn a_subscriber_that_reads_loses_nothing_however_fast_is_published() {
    const BYTES: usize = 60_000;
    let limits = ConnectionLimits { delivery_queue_bytes: 4 * 1024 * 1024, ..ConnectionLimits::default() };
    let served = serve(Arc::new(Broker::new(None)), limits, 10).await;
    let mut sub = served.raw(super::rig::V311).await;
    expect(&mut sub, b"\x20\x02\x00\x00").await;
    sub.write_all(b"\x82\x06\x00\x01\x00\x01a\x01").await.unwrap();
    expect(&mut sub, b"\x90\x03\x00\x01\x01").await;
    // 30 MB, several times what may wait.
    let publishing = publish_all(&served, 500, BYTES).await;
    let mut packet = vec![0; 4 + 3 + 2 + BYTES];
    for n in 0..500 {
        // Others get on faster than it does.
        for _ in 0..30 {
            tokio::task::yield_now().await;
        }
        sub.read_exact(&mut packet).await.unwrap_or_else(|e| panic!("closed at message {n}: {e}"));
        sub.write_all(&[0x40, 2, packet[7], packet[8]]).await.unwrap();
    }
    publishing.await.unwrap();
}

#[tokio::test]
async fn a_subscriber_that_does_not_follow_is_told_and_holds_up_nobody_for_long() {
    let (departed, mut departures) = mpsc::unbounded_channel();
    let app = Arc::new(Noting { broker: Broker::new(None), departed });
    let limits = ConnectionLimits { delivery_queue_bytes: 200_000, ..ConnectionLimits::default() };
    let served = serve(app, limits, 10).await;
    let mut sub = served.raw(CONNECT).await;
    connack(&mut sub).await;
    sub.write_all(b"\x82\x07\x00\x01\x00\x00\x01a\x01").await.unwrap();
    expect(&mut sub, b"\x90\x04\x00\x01\x00\x01").await;
    // It reads, but acknowledges nothing.
    let (mut from, _to) = sub.into_split();
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        from.read_to_end(&mut all).await.map(|_| all)
    });
    publish_all(&served, 200, 20_000).await.await.unwrap();
    let told = departures.recv().await.unwrap();
    assert_eq!((told.reason.label(), told.client_id.as_deref()), ("slow_consumer", Some("c")));
    let culprit = told.culprit.unwrap();
    assert!(&*culprit.topic == "a" && culprit.bytes > 100_000, "{culprit:?}");
    assert!(reading.await.unwrap().unwrap().ends_with(b"\xe0\x02\x97\x00"));
}

#[tokio::test]
async fn silent_sockets_displace_each_other_and_keep_nobody_out() {
    let (departed, mut departures) = mpsc::unbounded_channel();
    let app = Arc::new(Noting { broker: Broker::new(None), departed });
    let served =
        serve(app, ConnectionLimits { connect_wait_ms: 600_000, ..ConnectionLimits::default() }, 16).await;
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(TcpStream::connect(("127.0.0.1", served.port)).await.unwrap());
    }
    // At most 8 of them have seats; the others were told to go, or are about to be.
    let mut gone = 0;
    while gone < 52 {
        let told = tokio::time::timeout(Duration::from_secs(60), departures.recv()).await;
        let told = told.expect("their seats are taken").unwrap();
        assert!(matches!(told.reason, CloseReason::NoConnect | CloseReason::NoSeatForAddress), "{told:?}");
        gone += 1;
    }
    let mut client = served.raw(super::rig::V311).await;
    expect(&mut client, b"\x20\x02\x00\x00").await;
}

#[tokio::test]
async fn one_address_leaves_connections_for_others() {
    let address = ([127, 0, 0, 1], 0).into();
    let limits = ConnectionLimits::default();
    let config = ListenerConfig { address, max_connections: 3, max_connections_per_address: 2, limits };
    let served = serve_at(Arc::new(Broker::new(None)), config).await;
    let greeted = async |from: [u8; 4], id: u8| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut socket = socket.connect(([127, 0, 0, 1], served.port).into()).await.unwrap();
        let connect = [&b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x1e\x00\x01"[..], &[id]].concat();
        let mut answer = [0; 4];
        let said = socket.write_all(&connect).await.is_ok() && socket.read_exact(&mut answer).await.is_ok();
        said.then_some(socket)
    };
    let (greedy, other) = ([127, 0, 0, 2], [127, 0, 0, 3]);
    let (first, second) = (greeted(greedy, b'a').await, greeted(greedy, b'b').await);
    assert!(first.is_some() && second.is_some());
    assert!(greeted(greedy, b'c').await.is_none());
    let third = greeted(other, b'd').await;
    assert!(third.is_some());
    // A freed place may be used again, by whom it was.
    drop(first);
    while greeted(greedy, b'e').await.is_none() {
        tokio::task::yield_now().await;
    }
}

/// Stands still until it is told, and holds publishes until then.
struct Standing {
    credit: Arc<CreditPool>,
    held: Mutex<Vec<(Arc<Handle>, Publish)>>,
    charges: Mutex<std::collections::HashMap<u64, Charge>>,
    most_used_bytes: std::sync::atomic::AtomicUsize,
    closed: std::sync::atomic::AtomicUsize,
}

impl Standing {
    fn count(&self, handle: &Arc<Handle>) {
        let held = self.held.lock().unwrap();
        let of_it = held.iter().filter(|(of, _)| of.id() == handle.id());
        let bytes = of_it.map(|(_, publish)| publish.cost_bytes()).sum();
        handle.note_held(bytes);
        let mut charges = self.charges.lock().unwrap();
        charges.entry(handle.id()).or_insert_with(|| Charge::new(self.credit.clone())).set(bytes);
        self.most_used_bytes.fetch_max(self.credit.used_bytes(), std::sync::atomic::Ordering::Relaxed);
    }
}

impl Application for Standing {
    fn inbound(&self, handle: &Arc<Handle>, events: &mut Vec<Inbound>) {
        for event in events.drain(..) {
            match event {
                Inbound::Connect(_) => handle.answer(Answer::Accept(Box::default())),
                Inbound::Publish(p) => self.held.lock().unwrap().push((handle.clone(), p)),
                Inbound::Closed(closed) if closed.reason != CloseReason::Disconnected => {
                    self.closed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                }
                _ => {}
            }
        }
        self.count(handle);
    }

    fn credit(&self) -> Arc<CreditPool> {
        self.credit.clone()
    }

    fn departed(&self, _: &Departure) {}
}

#[tokio::test]
async fn while_the_application_stands_still_many_large_publishes_stay_within_the_credit_and_none_is_lost() {
    const CONNECTIONS: usize = 60;
    const EACH: u8 = 5;
    // One of each connection is more than the credit already.
    const PAYLOAD_BYTES: usize = 200_000;
    let most = 4 * 1024 * 1024;
    let app = Arc::new(Standing {
        credit: Arc::new(CreditPool::new(most)),
        held: Mutex::default(),
        charges: Mutex::default(),
        most_used_bytes: Default::default(),
        closed: Default::default(),
    });
    let served = serve(app.clone(), ConnectionLimits::default(), 2 * CONNECTIONS).await;
    // They are idle at first: what credit there was then must not be what they go by.
    let mut sockets = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut socket = served.raw(super::rig::V311).await;
        expect(&mut socket, b"\x20\x02\x00\x00").await;
        sockets.push(socket);
    }
    let mut clients = Vec::new();
    for socket in sockets {
        clients.push(tokio::spawn(async move {
            let (mut reading, mut writing) = socket.into_split();
            let write = tokio::spawn(async move {
                for id in 1..=EACH {
                    writing.write_all(&super::rig::large_publish3(id, PAYLOAD_BYTES)).await.unwrap();
                }
                writing
            });
            let mut acks = vec![0; 4 * usize::from(EACH)];
            reading.read_exact(&mut acks).await.unwrap();
            write.await.unwrap().write_all(b"\xe0\x00").await.unwrap();
            acks
        }));
    }
    // It is full when it does not grow any more: nothing is read, for nothing is answered.
    let held_bytes = || app.held.lock().unwrap().iter().map(|(_, p)| p.cost_bytes()).sum::<usize>();
    while held_bytes() < most / 2 {
        tokio::task::yield_now().await;
    }
    // Small publishes of another client pass all the same.
    let mut small = served.raw(super::rig::V311).await;
    expect(&mut small, b"\x20\x02\x00\x00").await;
    small.write_all(&[&super::rig::publish3(0x32, 7)[..], b"\xc0\x00"].concat()).await.unwrap();
    expect(&mut small, b"\xd0\x00").await;
    let (mut answered, all) = (0, CONNECTIONS * usize::from(EACH) + 1);
    while answered < all {
        let held = std::mem::take(&mut *app.held.lock().unwrap());
        answered += held.len();
        for (handle, publish) in held {
            app.count(&handle);
            handle.answer(Answer::Ack(Ack::kept(publish.token)));
        }
        tokio::task::yield_now().await;
    }
    for client in clients {
        let want: Vec<u8> = (1..=EACH).flat_map(|id| [0x40, 2, 0, id]).collect();
        assert_eq!(client.await.unwrap(), want);
    }
    let used = app.most_used_bytes.load(std::sync::atomic::Ordering::Relaxed);
    // What is each connection's own, and what one read or packet takes at the same moment.
    let beyond = CONNECTIONS * (4_096 + 2 * 4_096) + 2 * 65_536;
    assert!(used > most / 2 && used <= most + beyond, "{used}");
    assert_eq!(app.closed.load(std::sync::atomic::Ordering::Relaxed), 0);
    drop(small);
    served.stop.send(true).unwrap();
    served.task.await.unwrap();
    assert_eq!(app.credit.used_bytes(), 0);
}
