use super::*;
use crate::directory::GatewayAddresses;
use crate::directory::GatewayKey;
use crate::machine::Origin;
use crate::peer::{ForwardAnswer, QueryAnswer};
use crate::ring::ReplicaSet;
use selvedge_types::ids::ShardId;
use selvedge_types::time::EpochMs;

/// By the end with the lower id, to the first start of the peer's process.
const DIALLED: Dialled = Dialled { by: GatewayId(1), start: 1 };

const CLOCKS: fn() -> ClockNote = || ClockNote { wall: EpochMs(1_764_000_000_000), mono_ms: 5, heard: None };

fn message(n: u64, bytes: usize) -> PeerMessage {
    let origin = Origin { gateway: GatewayId(1), start: 1 };
    PeerMessage::Forward { shard: ShardId(0), origin, n, submission: vec![0; bytes].into() }
}

fn numbers(frame: Option<Vec<u8>>) -> Vec<u64> {
    let frame = PeerFrame::decode(&frame.expect("a frame is due")).unwrap();
    let number = |m: &PeerMessage| match m {
        PeerMessage::Forward { n, .. } => *n,
        other => panic!("{other:?}"),
    };
    frame.messages.iter().map(number).collect()
}

fn up() -> Link {
    let mut link = Link::new(GatewayId(1), GatewayId(2));
    link.handshaking();
    link.connected(1000, DIALLED);
    link
}

#[test]
fn the_lower_id_dials_and_waits_longer_after_each_failure() {
    let mut link = Link::new(GatewayId(1), GatewayId(2));
    assert!(link.dials_first() && !Link::new(GatewayId(2), GatewayId(1)).dials_first());
    assert_eq!(link.state(), LinkState::Down);
    let waits = [(); 7].map(|()| {
        link.handshaking();
        assert_eq!(link.state(), LinkState::Handshaking);
        let wait = link.failed();
        assert_eq!(link.state(), LinkState::Down);
        wait
    });
    assert_eq!(waits, [50, 100, 200, 400, 800, 1000, 1000]);
    link.handshaking();
    link.connected(10_000, DIALLED);
    assert_eq!(link.state(), LinkState::Up);
    assert_eq!(link.lost(10_100), 1000, "a connection that ends as soon as it is there was no success");
    link.connected(20_000, DIALLED);
    assert_eq!(link.lost(21_000), 0, "a sound one is dialled again at once");
    assert_eq!(link.failed(), 50);
}

#[test]
fn the_higher_id_dials_later() {
    let mut link = Link::new(GatewayId(2), GatewayId(1));
    assert_eq!(
        (link.first_wait_ms(), Link::new(GatewayId(1), GatewayId(2)).first_wait_ms()),
        (DIAL_BACK_MS, 0)
    );
    assert_eq!([(); 3].map(|()| link.failed()), [DIAL_BACK_MS; 3]);
    link.connected(1000, DIALLED);
    assert_eq!(link.lost(9000), DIAL_BACK_MS);
}

/// Two ends that have the same two connections keep the same one, in whatever order each of them got the two.
#[test]
fn of_two_connections_both_ends_keep_the_same() {
    let (lower, higher) = (GatewayId(1), GatewayId(2));
    let (by_lower, by_higher) = (Dialled { by: lower, start: 4 }, Dialled { by: higher, start: 4 });
    for (me, peer) in [(lower, higher), (higher, lower)] {
        for order in [[by_lower, by_higher], [by_higher, by_lower]] {
            let mut link = Link::new(me, peer);
            for dialled in order {
                if link.takes(dialled) {
                    link.connected(1000, dialled);
                }
            }
            assert_eq!(link.dialled_by(), Some(lower), "{me} {order:?}");
        }
    }
    let mut link = Link::new(higher, lower);
    link.connected(1000, by_lower);
    assert!(link.takes(by_lower), "the end that dials anew has none");
    assert!(link.takes(Dialled { start: 5, ..by_higher }), "the peer's process has restarted");
    link.lost(2000);
    assert!(link.takes(by_higher));
    link.end();
    assert!(!link.takes(by_lower));
}

#[test]
fn a_new_attempt_does_not_take_a_link_down() {
    let mut link = up();
    link.handshaking();
    assert_eq!(link.state(), LinkState::Up);
    link.failed();
    assert_eq!(link.state(), LinkState::Up);
}

#[test]
fn what_is_queued_shares_a_frame_and_nothing_is_sent_twice() {
    let mut link = up();
    assert!(link.send(vec![message(1, 10), message(2, 10)]));
    assert!(link.send(vec![message(3, 10)]));
    assert_eq!(numbers(link.next_frame(1000, CLOCKS)), [1, 2, 3]);
    assert_eq!(link.next_frame(1000, CLOCKS), None);
    assert!(!link.send(vec![]));
    assert_eq!(link.counts().of(Lane::Forwarding), LaneCounts { sent: 3, ..LaneCounts::default() });
    assert_eq!(link.counts().total().sent, 3);
}

#[test]
fn a_heartbeat_leaves_only_after_silence() {
    let mut link = up();
    assert_eq!(link.next_frame(1099, CLOCKS), None);
    let heartbeat = link.next_frame(1100, CLOCKS).unwrap();
    assert_eq!(
        PeerFrame::decode(&heartbeat).unwrap(),
        PeerFrame { clocks: CLOCKS(), full: false, up: Arc::default(), messages: vec![] }
    );
    link.says_full(true);
    link.send(vec![message(1, 10)]);
    assert_eq!(numbers(link.next_frame(1150, CLOCKS)), [1]);
    assert_eq!(link.heartbeat_at(), 1200, "with those of the other links");
    assert_eq!(link.next_frame(1199, CLOCKS), None);
    let heartbeat = link.next_frame(1200, CLOCKS).unwrap();
    assert!(PeerFrame::decode(&heartbeat).unwrap().full);
}

#[test]
fn a_frame_is_cut_at_its_target_but_takes_any_one_message() {
    let mut link = up();
    link.send((1..=3).map(|n| message(n, FRAME_TARGET_BYTES / 2)).collect());
    link.send(vec![message(4, MAX_MESSAGE_BYTES - 100), message(5, 1)]);
    // The three and the long one are more than the lane holds: the oldest was dropped.
    assert_eq!(link.counts().total().dropped_full, 3);
    let long = link.next_frame(1000, CLOCKS).unwrap();
    assert!(long.len() <= MAX_PEER_FRAME_BYTES);
    assert_eq!(numbers(Some(long)), [4]);
    assert_eq!(numbers(link.next_frame(1000, CLOCKS)), [5]);
    link.send((1..=3).map(|n| message(n, FRAME_TARGET_BYTES / 2 - 100)).collect());
    assert_eq!(numbers(link.next_frame(1000, CLOCKS)), [1, 2]);
    assert_eq!(numbers(link.next_frame(1000, CLOCKS)), [3]);
}

#[test]
fn the_longest_message_fits_a_frame_and_a_longer_one_is_dropped_alone() {
    let mut link = up();
    // As many gateways as a site has, with numbers that take three bytes each.
    link.says_up((0..crate::ring::MAX_GATEWAYS as u16).map(|n| GatewayId(60_000 + n)).collect());
    let overhead = {
        let mut queue = LinkQueue::default();
        let size = |n: usize| {
            let mut link = up();
            link.send(vec![message(1, n)]);
            link.next_frame(1000, CLOCKS).unwrap().len()
        };
        queue.push(message(1, 100_000), &mut LinkCounts::default());
        // A frame holds its version, the clocks (11 bytes), whether there is room, the gateways that are up (here none), the
        // number of messages, and the messages.
        assert_eq!(size(100_000), 1 + 11 + 1 + 1 + 1 + queue.bytes());
        queue.bytes() - 100_000
    };
    link.send(vec![message(1, 10), message(2, MAX_MESSAGE_BYTES - overhead + 1), message(3, 10)]);
    assert_eq!(link.counts().total().dropped_long, 1);
    assert_eq!(numbers(link.next_frame(1000, CLOCKS)), [1, 3]);
    link.send(vec![message(4, MAX_MESSAGE_BYTES - overhead)]);
    let frame = link.next_frame(1000, CLOCKS).unwrap();
    assert!(frame.len() <= MAX_PEER_FRAME_BYTES);
    assert_eq!(numbers(Some(frame)), [4]);
}

#[test]
fn a_full_lane_drops_its_oldest_and_counts_them() {
    let mut link = up();
    link.send((0..LANE_MESSAGES as u64 + 5).map(|n| message(n, 0)).collect());
    assert_eq!(link.counts().total().dropped_full, 5);
    assert_eq!(numbers(link.next_frame(1000, CLOCKS))[0], 5);

    let mut link = up();
    link.send((0..100).map(|n| message(n, 100_000)).collect());
    let mut left = vec![];
    while let Some(frame) = link.next_frame(1000, CLOCKS) {
        left.extend(numbers(Some(frame)));
    }
    assert_eq!(left, (100 - left.len() as u64..100).collect::<Vec<_>>(), "the newest, in order");
    assert_eq!(left.len(), Lane::Forwarding.most_bytes() / 100_020);
    assert_eq!(link.counts().total().dropped_full + left.len() as u64, 100);
}

#[test]
fn a_link_that_is_down_keeps_nothing() {
    let mut link = Link::new(GatewayId(1), GatewayId(2));
    assert!(!link.send(vec![message(1, 1)]));
    link.connected(1000, DIALLED);
    link.send(vec![message(2, 1), message(3, 1)]);
    link.lost(1001);
    assert_eq!(link.next_frame(5000, CLOCKS), None);
    link.connected(1002, DIALLED);
    assert_eq!(link.next_frame(1002, CLOCKS), None);
    assert_eq!(link.counts().total().dropped_down, 3);
}

#[test]
fn the_link_to_a_removed_peer_ends_for_good_and_counts_what_it_drops() {
    let mut link = up();
    link.send(vec![message(1, 1), message(2, 1)]);
    link.end();
    assert_eq!((link.state(), link.counts().total().dropped_down), (LinkState::Ended, 2));
    link.connected(2_000, DIALLED); // a greeting that was under way
    assert!(!link.send(vec![message(3, 1)]));
    assert!(link.next_frame(9_000, CLOCKS).is_none(), "not even a heartbeat");
    link.handshaking();
    link.lost(9_000);
    assert_eq!((link.state(), link.counts().total().dropped_down), (LinkState::Ended, 3));
    let mut sum = up().counts();
    sum.add(&link.counts());
    sum.add(&link.counts());
    assert_eq!(sum.of(Lane::Forwarding).dropped_down, 6);
}

#[test]
fn a_replacing_connection_takes_over_what_waits() {
    let mut link = up();
    link.send(vec![message(1, 1)]);
    link.connected(1001, DIALLED);
    assert_eq!(numbers(link.next_frame(1001, CLOCKS)), [1]);
}

/// Gateways of two releases talk to each other, so these bytes never change.
#[test]
fn golden_bytes() {
    let frame = PeerFrame {
        clocks: CLOCKS(),
        full: true,
        up: [GatewayId(1), GatewayId(300)].into(),
        messages: vec![message(7, 2)],
    };
    assert_eq!(
        frame.encode(),
        [10, 253, 0, 208, 47, 109, 53, 3, 0, 0, 5, 0, 1, 2, 1, 251, 44, 1, 1, 1, 0, 1, 1, 7, 2, 0, 0]
    );
    let empty = PeerFrame { clocks: ClockNote::default(), full: false, up: Arc::default(), messages: vec![] };
    assert_eq!(empty.encode(), [10, 0, 0, 0, 0, 0, 0]);
    let replicas = ReplicaSet { configuration: 3, members: vec![GatewayId(4), GatewayId(300)] };
    let (leader, origin) = (Some(2), Origin { gateway: GatewayId(1), start: 1 });
    let answer = ForwardAnswer::NotLeader { leader, replicas: replicas.clone() };
    let forwarded = PeerMessage::Forwarded { shard: ShardId(0), origin, n: 7, answer };
    let answer = PeerMessage::Answer { id: 9, answer: QueryAnswer::NotLeader { leader, replicas } };
    let told = PeerFrame {
        clocks: ClockNote::default(),
        full: false,
        up: Arc::default(),
        messages: vec![forwarded, answer],
    };
    let said = [1, 1, 2, 3, 2, 4, 251, 44, 1]; // that it does not lead, the leader, and who holds the shard
    let expected = [&[10, 0, 0, 0, 0, 0, 2, 2, 0, 1, 1, 7][..], &said, &[5, 9], &said].concat();
    assert_eq!(told.encode(), expected);
    let refused = Greeting::refused("no\nway").encode();
    assert_eq!(refused, [2, 3, 6, b'n', b'o', b' ', b'w', b'a', b'y']);
    assert_eq!(Greeting::removed("no").encode(), [2, 7, 2, b'n', b'o']);
    let hello = Greeting::Hello(hello(2)).encode();
    assert_eq!(hello[..12], [2, 0, 1, 1, 7, b'p', b'l', b'a', b'n', b't', b'-', b'7']);
    assert_eq!(hello[12..44], [5; 32]);
    assert_eq!(hello[44..], [2, 9, 3, 77]);
    assert_eq!((PREAMBLE, KEYLESS_PREAMBLE), (*b"SVL\x02", *b"SVL\x01"));
}

fn hello(gateway: u16) -> Hello {
    Hello {
        oldest: 1,
        newest: 1,
        site: "plant-7".to_string(),
        membership: [5; 32],
        gateway: GatewayId(gateway),
        incarnation: Incarnation(9),
        start: 3,
        run: 77,
    }
}

#[test]
fn a_greeting_is_bounded_whatever_it_says() {
    let long = Greeting::refused(&"é\u{7}".repeat(10_000));
    let Greeting::Refused { reason } = &long else { panic!() };
    assert!(reason.len() <= MAX_REASON_BYTES && !reason.contains('\u{7}'));
    assert!(long.encode().len() <= MAX_GREETING_BYTES);
    let raw = frame::encode(GREETING_VERSION, &Greeting::Refused { reason: "a\u{1b}[2J".repeat(200) });
    let Greeting::Refused { reason } = Greeting::decode(&raw).unwrap() else { panic!() };
    assert!(reason.len() <= MAX_REASON_BYTES && !reason.contains('\u{1b}'));
    let mut largest = hello(u16::MAX);
    (largest.oldest, largest.newest, largest.start, largest.run) = (u16::MAX, u16::MAX, u64::MAX, u64::MAX);
    largest.site = "x".repeat(MAX_SITE_NAME);
    largest.incarnation = Incarnation(u128::MAX);
    assert!(Greeting::Welcome(largest).encode().len() <= MAX_GREETING_BYTES);
}

const MAX_SITE_NAME: usize = selvedge_types::ids::MAX_SITE_NAME_BYTES;

#[test]
fn who_does_not_belong_is_refused_in_words() {
    let me = hello(2);
    let mut peers = PeerList::new(GatewayId(2));
    peers.set([1, 3, 4].map(|p| (GatewayId(p), KnownPeer::at("box:7000".to_string()))).into()).unwrap();
    peers.set([1, 3].map(|p| (GatewayId(p), KnownPeer::at("box:7000".to_string()))).into()).unwrap();
    let checked = |them: &Hello, expected| check(&me, them, expected, &peers).map_err(|r| r.to_string());
    assert_eq!(checked(&hello(1), None), Ok(()));
    assert_eq!(checked(&hello(3), Some(GatewayId(3))), Ok(()));
    for (change, expected, says) in [
        (
            (|h: &mut Hello| (h.oldest, h.newest) = (2, 3)) as fn(&mut Hello),
            None,
            "g2 speaks protocols 1 to 1, g1 2 to 3; upgrade",
        ),
        (
            |h| h.site = "pl\u{1b}ant".to_string(),
            None,
            "g2 belongs to site \"plant-7\", g1 to site \"plant\"",
        ),
        (
            |h| h.membership[0] = 1,
            None,
            "disagree on the site's membership or settings (hash 05050505 here, 01050505 there)",
        ),
        (|h| h.gateway = GatewayId(2), None, "both ends call themselves g2"),
        (|_| (), Some(GatewayId(3)), "g2 expected g3 at this address and found g1"),
        (|h| h.gateway = GatewayId(9), None, "g2 knows no gateway g9"),
        (
            |h| (h.gateway, h.membership[0]) = (GatewayId(4), 1),
            None,
            "g4 was removed from the site and can't come back under this id; stop it",
        ),
        (
            |h| h.start = u64::MAX,
            None,
            "start 18446744073709551615 of its process, but start 1099511627776 is the last possible one",
        ),
        (|h| h.start = 0, None, "start 0 of its process"),
    ] {
        let mut them = hello(1);
        change(&mut them);
        let said = checked(&them, expected).unwrap_err();
        assert!(said.contains(says), "{said}");
        assert!(said.len() <= MAX_REASON_BYTES);
    }
    let mut newer = hello(1);
    newer.newest = 7;
    assert_eq!(checked(&newer, None), Ok(()), "a newer release that still speaks our protocol");
}

const KEY: GatewayKey = GatewayKey([0xa1; 32]);
const OTHER_KEY: GatewayKey = GatewayKey([0xb2; 32]);

fn unnamed() -> KnownPeer {
    KnownPeer::at("box:7000".to_string())
}

#[test]
fn a_peer_is_trusted_once_and_then_only_as_itself() {
    let judge = |known: Option<&Known>, them: &Hello| admit(&unnamed(), known, them, KEY);
    let met = hello(1);
    let known = judge(None, &met).unwrap().expect("to be written down");
    assert_eq!(judge(Some(&known), &met), Ok(None), "a new connection of the same process");
    let mut restarted = hello(1);
    (restarted.start, restarted.run) = (4, 78);
    assert_eq!(judge(Some(&known), &restarted).unwrap().map(|k| k.start), Some(4));
    let leapt = Hello { start: 4 + MAX_MISSED_STARTS, ..restarted.clone() };
    let said = judge(Some(&known), &leapt).unwrap_err().to_string();
    assert!(
        said.contains("the last known one was 3"),
        "its next true start would be refused for good: {said}"
    );
    for (incarnation, start, run, says) in [
        (8, 9, 79, "another data folder"),
        (9, 2, 79, "an older data folder"),
        (9, 3, 79, "its data folder was copied"),
    ] {
        let mut them = hello(1);
        (them.incarnation, them.start, them.run) = (Incarnation(incarnation), start, run);
        let said = judge(Some(&known), &them).unwrap_err().to_string();
        assert!(
            said.contains(says) && said.contains("or run `selvedge gateway invite --replace 1`"),
            "{said}"
        );
        assert!(said.len() <= MAX_REASON_BYTES);
    }
}

#[test]
fn the_first_key_of_a_peer_is_trusted_and_then_no_other() {
    let them = hello(u16::MAX);
    let known = admit(&unnamed(), None, &them, KEY).unwrap().expect("to be written down");
    assert_eq!(known.key, Some(KEY));
    let said = admit(&unnamed(), Some(&known), &them, OTHER_KEY).unwrap_err().to_string();
    assert!(said.contains("another key than before (it was a1a1a1a1, now it is b2b2b2b2)"), "{said}");
    assert!(said.contains("put its original link-key.json back"), "{said}");
    assert!(said.len() <= MAX_REASON_BYTES, "{}", said.len());
    // A record of a release that knew no keys.
    let older = Known { key: None, ..known };
    assert_eq!(admit(&unnamed(), Some(&older), &them, KEY), Ok(Some(known)));
}

#[test]
fn what_the_directory_names_takes_precedence_over_what_was_met_first() {
    let them = hello(u16::MAX);
    let known = admit(&unnamed(), None, &them, KEY).unwrap().expect("to be written down");
    let named = KnownPeer { key: Some(OTHER_KEY), ..unnamed() };
    for record in [None, Some(&known)] {
        let said = admit(&named, record, &them, KEY).unwrap_err().to_string();
        assert!(
            said.contains("than the one that the site knows (it was b2b2b2b2, now it is a1a1a1a1)"),
            "{said}"
        );
        assert!(said.len() <= MAX_REASON_BYTES, "{}", said.len());
    }
    let met = admit(&named, Some(&known), &them, OTHER_KEY).unwrap().expect("to be written down");
    assert_eq!(met.key, Some(OTHER_KEY));
    // With the incarnation named, a record of another one counts for nothing.
    let named = KnownPeer { incarnation: Some(Incarnation(9)), ..named };
    let first = Known { mark: Incarnation(8).mark(), start: 700, ..known };
    assert_eq!(admit(&named, Some(&first), &them, OTHER_KEY).unwrap().map(|k| k.start), Some(3));
    let emptied = Hello { incarnation: Incarnation(8), ..them.clone() };
    let said = admit(&named, Some(&first), &emptied, OTHER_KEY).unwrap_err().to_string();
    assert!(said.contains("another data folder than the one that the site knows"), "{said}");
    assert!(said.len() <= MAX_REASON_BYTES);
    let older = Hello { start: 2, ..them };
    assert!(admit(&named, Some(&met), &older, OTHER_KEY).is_err(), "a disk restored from a copy");
}

#[test]
fn a_box_of_another_site_or_release_is_told_what_differs() {
    let addresses = GatewayAddresses { peer: "box:7081".into(), ..GatewayAddresses::default() };
    let question = join_question("plant-7".into(), JoinToken([7; 32]), Incarnation(7), addresses);
    let me = Hello {
        oldest: 2,
        newest: 3,
        site: "plant-7".into(),
        membership: [0; 32],
        gateway: GatewayId(1),
        incarnation: Incarnation(1),
        start: 1,
        run: 1,
    };
    let asked = JoinQuestion { site: "plant-7".into(), oldest: 2, newest: 2, ..question.clone() };
    assert_eq!(check_join(&me, &asked), Ok(()));
    let said = check_join(&me, &JoinQuestion { site: "plant-8".into(), ..asked.clone() }).unwrap_err().0;
    assert!(said.contains("plant-7") && said.contains("plant-8") && said.contains("site.seeds"), "{said}");
    for (oldest, newest) in [(1, 1), (4, 5)] {
        let said = check_join(&me, &JoinQuestion { oldest, newest, ..asked.clone() }).unwrap_err().0;
        assert!(said.contains("protocols 2 to 3") && said.contains("release"), "{said}");
    }
}
