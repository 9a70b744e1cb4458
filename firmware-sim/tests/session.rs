//! Golden scripts of the session core: one event a line, its effects below it.

use firmware_sim::session::{
    ACK_PATIENCE_MS, CONNECT_PATIENCE_MS, Effect, Event, MAX_NAMED_ENTRIES, Manner, Message, Out, Server,
    Session, SessionSettings,
};
use std::fmt::Write;

struct Script {
    session: Session<u32>,
    now: u64,
    next: u32,
    trace: String,
}

fn script(v5: bool, qos: u8, persistent: bool) -> Script {
    let session = Session::new(SessionSettings {
        manner: Manner { v5, qos, persistent },
        gateways: 1,
        queue_entries: 8,
        in_flight_entries: 2,
        seed: 1,
    });
    Script { session, now: 0, next: 0, trace: String::new() }
}

fn name(effect: &Effect<u32>) -> String {
    match effect {
        Effect::Connect { to, clean } => {
            let to = match to {
                Server::Known(gateway) => gateway.to_string(),
                Server::Named(address) => address.clone(),
            };
            format!("connect {to}{}", if *clean { " clean" } else { "" })
        }
        Effect::Send(Out::Publish { packet_id, dup, payload, .. }) => {
            let text = String::from_utf8_lossy(payload);
            format!("publish {packet_id} \"{text}\"{}", if *dup { " dup" } else { "" })
        }
        Effect::Send(Out::Release(id)) => format!("pubrel {id}"),
        Effect::Send(Out::Ping) => "ping".into(),
        Effect::Send(Out::Disconnect) => "disconnect".into(),
        Effect::Close { abandon } => if *abandon { "abandon" } else { "close" }.into(),
        Effect::Published(tag) => format!("published {tag}"),
        Effect::Acked(tag) => format!("acked {tag}"),
        Effect::Quarantined(tag) => format!("quarantined {tag}"),
    }
}

impl Script {
    fn event(&mut self, said: &str, event: Event) -> &mut Self {
        let mut effects = Vec::new();
        self.session.step(self.now, event, &mut effects);
        let effects: Vec<String> = effects.iter().map(name).collect();
        let _ = writeln!(self.trace, "{said}: {}", effects.join(", "));
        self
    }

    fn offer(&mut self, count: u32) -> &mut Self {
        for _ in 0..count {
            let payload = format!("r{}", self.next).into_bytes();
            let offered = Message { topic: "t".into(), payload, tag: self.next };
            self.session.offer(offered).unwrap();
            self.next += 1;
        }
        self.event(&format!("offer {count}"), Event::Tick)
    }

    fn tick(&mut self) -> &mut Self {
        self.event("tick", Event::Tick)
    }

    /// Time goes on to where the session wants to be woken.
    fn wake(&mut self) -> &mut Self {
        self.now = self.session.wake_at().unwrap().max(self.now);
        self.event("wake", Event::Tick)
    }

    fn connected(&mut self, present: bool) -> &mut Self {
        let said = if present { "connected present" } else { "connected" };
        self.event(said, Event::Connected { present, receive_max: 100 })
    }

    fn lost(&mut self) -> &mut Self {
        self.event("lost", Event::Lost)
    }

    fn sent_away(&mut self, servers: &[&str]) -> &mut Self {
        let server =
            |text: &&str| text.parse().map_or_else(|_| Server::Named(text.to_string()), Server::Known);
        let event = Event::SentAway(servers.iter().map(server).collect());
        self.event(&format!("sent away to {}", servers.join(" ")), event)
    }

    fn puback(&mut self, id: u16, reason: u8) -> &mut Self {
        self.event(&format!("puback {id} {reason:#x}"), Event::PubAck(id, reason))
    }

    fn pubrec(&mut self, id: u16) -> &mut Self {
        self.event(&format!("pubrec {id}"), Event::PubRec(id, 0))
    }

    fn reads(&self, golden: &str) {
        let tidy =
            |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
        assert_eq!(tidy(&self.trace), tidy(golden), "\n{}", self.trace);
    }
}

#[test]
fn a_clean_session_sends_what_is_unacknowledged_again_in_order_under_new_ids() {
    let mut s = script(false, 1, false);
    s.tick().connected(false).offer(3).puback(2, 0).puback(9, 0).lost().wake().connected(false);
    s.puback(4, 0).puback(5, 0);
    s.reads(
        r#"
        tick: connect 0 clean
        connected:
        offer 3: published 0, publish 1 "r0", published 1, publish 2 "r1"
        puback 2 0x0: acked 1, published 2, publish 3 "r2"
        puback 9 0x0:
        lost:
        wake: connect 0 clean
        connected: publish 4 "r0", publish 5 "r2"
        puback 4 0x0: acked 0
        puback 5 0x0: acked 2
        "#,
    );
    assert_eq!((s.session.pending(), s.session.stats().resends), (0, 2));
}

#[test]
fn a_persistent_session_keeps_packet_id_and_bytes_and_sets_dup() {
    let mut s = script(false, 1, true);
    s.tick().connected(false).tick().connected(false).offer(3).lost().wake().connected(true);
    s.puback(1, 0).puback(1, 0).lost().wake().connected(false);
    s.reads(
        r#"
        tick: connect 0 clean
        connected: disconnect, close, connect 0
        tick:
        connected:
        offer 3: published 0, publish 1 "r0", published 1, publish 2 "r1"
        lost:
        wake: connect 0
        connected present: publish 1 "r0" dup, publish 2 "r1" dup
        puback 1 0x0: acked 0, published 2, publish 3 "r2"
        puback 1 0x0:
        lost:
        wake: connect 0
        connected: publish 4 "r1", publish 5 "r2"
        "#,
    );
    assert_eq!(s.session.stats().sessions_gone, 1);
}

#[test]
fn version_5_starts_a_persistent_session_anew_with_its_first_connection() {
    let mut s = script(true, 1, true);
    s.tick().connected(false).offer(1).lost().wake();
    s.reads(
        r#"
        tick: connect 0 clean
        connected:
        offer 1: published 0, publish 1 "r0"
        lost:
        wake: connect 0
        "#,
    );
}

#[test]
fn qos_2_is_acknowledged_by_pubrec_and_released_again_after_a_reconnect() {
    let mut s = script(true, 2, true);
    s.tick().connected(false).offer(2).pubrec(1).pubrec(1).lost().wake().connected(true);
    s.event("pubcomp 1", Event::PubComp(1)).event("pubcomp 2", Event::PubComp(2)).pubrec(2);
    s.event("pubcomp 2", Event::PubComp(2));
    s.reads(
        r#"
        tick: connect 0 clean
        connected:
        offer 2: published 0, publish 1 "r0", published 1, publish 2 "r1"
        pubrec 1: acked 0, pubrel 1
        pubrec 1: pubrel 1
        lost:
        wake: connect 0
        connected present: pubrel 1, publish 2 "r1" dup
        pubcomp 1:
        pubcomp 2:
        pubrec 2: acked 1, pubrel 2
        pubcomp 2:
        "#,
    );
    assert_eq!(s.session.pending(), 0);
}

#[test]
fn a_refused_publish_rests_and_comes_again_and_an_unreadable_one_does_not() {
    let mut s = script(true, 1, true);
    s.tick().connected(false).offer(3).puback(1, 0x97).puback(2, 0x99).puback(3, 0).wake();
    s.reads(
        r#"
        tick: connect 0 clean
        connected:
        offer 3: published 0, publish 1 "r0", published 1, publish 2 "r1"
        puback 1 0x97: published 2, publish 3 "r2"
        puback 2 0x99: quarantined 1
        puback 3 0x0: acked 2
        wake: publish 4 "r0"
        "#,
    );
    assert_eq!(s.session.stats().refusals, 1);
}

#[test]
fn a_gateway_that_is_silent_is_left() {
    let mut s = script(false, 1, false);
    s.tick();
    s.now += CONNECT_PATIENCE_MS;
    s.tick().wake().connected(false).offer(1).wake();
    s.event("pong", Event::Pong);
    s.now += ACK_PATIENCE_MS;
    s.tick().wake().connected(false).puback(2, 0).wake().wake();
    s.reads(
        r#"
        tick: connect 0 clean
        tick: close
        wake: connect 0 clean
        connected:
        offer 1: published 0, publish 1 "r0"
        wake: ping
        pong:
        tick: close
        wake: connect 0 clean
        connected: publish 2 "r0"
        puback 2 0x0: acked 0
        wake: ping
        wake: close
        "#,
    );
}

#[test]
fn the_queue_is_bounded_and_packet_ids_wrap_past_zero() {
    let mut s = script(false, 1, false);
    s.tick().connected(false);
    let mut effects = Vec::new();
    let message = |tag| Message { topic: "t".into(), payload: Vec::new(), tag };
    let mut seen = std::collections::BTreeSet::new();
    for tag in 0..70_000 {
        effects.clear();
        s.session.offer(message(tag)).unwrap();
        s.session.step(0, Event::Tick, &mut effects);
        let id = effects.iter().find_map(|e| match e {
            Effect::Send(Out::Publish { packet_id, .. }) => Some(*packet_id),
            _ => None,
        });
        let id = id.unwrap();
        seen.insert(id);
        s.session.step(0, Event::PubAck(id, 0), &mut effects);
    }
    assert!(!seen.contains(&0));
    assert_eq!(seen.len(), 65_535);
    (0..8).for_each(|tag| s.session.offer(message(tag)).unwrap());
    assert!(s.session.offer(message(9)).is_err());
}

#[test]
fn connections_are_tried_at_all_gateways_with_growing_waits() {
    let mut session: Session<()> = Session::new(SessionSettings {
        manner: Manner { v5: true, qos: 1, persistent: false },
        gateways: 3,
        queue_entries: 8,
        in_flight_entries: 2,
        seed: 5,
    });
    let mut tried = Vec::new();
    let mut waits = Vec::new();
    let mut now = 0;
    for _ in 0..12 {
        let mut effects = Vec::new();
        session.step(now, Event::Tick, &mut effects);
        tried.extend(effects.iter().filter_map(|e| match e {
            Effect::Connect { to: Server::Known(gateway), .. } => Some(*gateway),
            _ => None,
        }));
        session.step(now, Event::Lost, &mut effects);
        let next = session.wake_at().unwrap();
        waits.push(next - now);
        now = next;
    }
    let mut first: Vec<usize> = tried[..3].to_vec();
    first.sort_unstable();
    assert_eq!(first, [0, 1, 2]);
    assert_eq!(tried[..3], tried[3..6], "in the same order round and round");
    assert!(waits[0] <= 50 && waits[11] >= 1_000 && waits[11] <= 2_000, "{waits:?}");
}

#[test]
fn nothing_is_sent_far_ahead_of_a_reading_that_rests() {
    let mut session: Session<u64> = Session::new(SessionSettings {
        manner: Manner { v5: true, qos: 1, persistent: false },
        gateways: 1,
        queue_entries: 5_000,
        in_flight_entries: 100,
        seed: 1,
    });
    let mut effects = Vec::new();
    (0..5_000).for_each(|tag| {
        session.offer(Message { topic: "t".into(), payload: Vec::new(), tag }).unwrap();
    });
    session.step(0, Event::Tick, &mut effects);
    session.step(0, Event::Connected { present: false, receive_max: 100 }, &mut effects);
    session.step(0, Event::PubAck(1, 0x97), &mut effects);
    let mut sent = 0;
    let mut published = 0;
    while let Some(effect) = effects.get(sent).cloned() {
        sent += 1;
        match effect {
            Effect::Published(tag) => published = published.max(tag),
            Effect::Send(Out::Publish { packet_id, .. }) if packet_id != 1 => {
                session.step(0, Event::PubAck(packet_id, 0), &mut effects);
            }
            _ => {}
        }
    }
    assert_eq!(published, 999, "all but the first of a span of 1000");
    let wake = session.wake_at().unwrap();
    effects.clear();
    session.step(wake, Event::Tick, &mut effects);
    assert!(matches!(effects.first(), Some(Effect::Send(Out::Publish { .. }))), "{effects:?}");
}

#[test]
fn a_device_that_is_sent_away_follows_and_keeps_what_is_unacknowledged() {
    let mut s = script(true, 1, true);
    s.tick().connected(false).offer(2).puback(1, 0).sent_away(&["h2:1883", "h3:1883"]).wake();
    s.lost().wake().connected(true).puback(2, 0).offer(1).lost().wake();
    s.reads(
        r#"
        tick: connect 0 clean
        connected:
        offer 2: published 0, publish 1 "r0", published 1, publish 2 "r1"
        puback 1 0x0: acked 0
        sent away to h2:1883 h3:1883:
        wake: connect h2:1883
        lost:
        wake: connect h3:1883
        connected present: publish 2 "r1" dup
        puback 2 0x0: acked 1
        offer 1: published 2, publish 3 "r2"
        lost:
        wake: connect 0
        "#,
    );
    let stats = s.session.stats();
    assert_eq!((stats.sent_away, stats.losses, stats.connects), (1, 2, 2));
}

#[test]
fn a_device_goes_back_to_its_own_gateways_when_no_named_server_takes_it() {
    let mut s = script(true, 1, false);
    // Refused with a list of one that is known under another name and of one that is away; then without a list.
    s.tick().sent_away(&["0", "h2:1883"]).wake().sent_away(&["h3:1883"]).wake().lost().wake();
    s.sent_away(&[]).wake().connected(false);
    s.reads(
        r#"
        tick: connect 0 clean
        sent away to 0 h2:1883:
        wake: connect 0 clean
        sent away to h3:1883:
        wake: connect h3:1883 clean
        lost:
        wake: connect 0 clean
        sent away to :
        wake: connect 0 clean
        connected:
        "#,
    );
    assert_eq!(s.session.stats().sent_away, 3);
    let many: Vec<_> = (0..100).map(|n| format!("h{n}:1883")).collect();
    s.sent_away(&many.iter().map(String::as_str).collect::<Vec<_>>());
    s.wake();
    while s.session.gateway().is_none() {
        s.lost().wake();
    }
    assert_eq!(s.trace.matches("connect h").count(), 1 + MAX_NAMED_ENTRIES, "one of them above");
}
