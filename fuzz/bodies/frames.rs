//! What comes over a link before anything is done with it: greetings and frames, from bytes and back.

use crate::source::Source;
use selvedge_fabric::agreement::ClockNote;
use selvedge_fabric::detour;
use selvedge_fabric::directory::GatewayKey;
use selvedge_fabric::link::{
    Dialled, Greeting, Hello, Incarnation, Known, KnownPeer, Link, MAX_PEER_FRAME_BYTES, MAX_REASON_BYTES,
    PeerFrame, PeerList, admit, check,
};
use selvedge_fabric::peer::PeerMessage;
use selvedge_types::ids::GatewayId;

/// The longest that an operator is told, whatever a peer says of itself.
const MAX_SAID_BYTES: usize = 1024;

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(3) {
        0 => greeting(source.rest()),
        1 => hello(&mut source),
        _ => frame(source.rest()),
    }
}

fn greeting(bytes: &[u8]) {
    let Ok(said) = Greeting::decode(bytes) else { return };
    if let Greeting::Refused { reason } | Greeting::Removed { reason } = &said {
        assert!(reason.len() <= MAX_REASON_BYTES && !reason.chars().any(char::is_control));
    }
    assert_eq!(Greeting::decode(&said.encode()).as_ref(), Ok(&said));
}

fn hello(source: &mut Source) {
    let me = Hello {
        oldest: 1,
        newest: 1,
        site: "plant-7".into(),
        membership: [7; 32],
        gateway: GatewayId(2),
        incarnation: Incarnation(9),
        start: 5,
        run: 6,
    };
    let them = Hello {
        oldest: source.below(3) as u16,
        newest: source.below(3) as u16,
        site: if source.flag() { me.site.clone() } else { source.text(300) },
        membership: if source.flag() { me.membership } else { [source.byte(); 32] },
        gateway: GatewayId(source.below(5) as u16),
        incarnation: Incarnation(source.below(3) as u128),
        start: source.number(5),
        run: source.number(6),
    };
    assert_eq!(Greeting::decode(&Greeting::Hello(them.clone()).encode()), Ok(Greeting::Hello(them.clone())));
    let expected = source.flag().then(|| GatewayId(source.below(5) as u16));
    let mut peers = PeerList::new(me.gateway);
    let named = |ids: std::ops::RangeInclusive<u16>| {
        ids.map(|g| (GatewayId(g), KnownPeer::at("box:7000".to_string()))).collect()
    };
    peers.set(named(1..=4)).expect("a site may have four gateways");
    peers.set(named(1..=3)).expect("a site may have three gateways");
    match check(&me, &them, expected, &peers) {
        Err(why) => assert!(why.0.len() <= MAX_SAID_BYTES),
        Ok(()) => {
            assert!(them.site == me.site && them.membership == me.membership && them.gateway != me.gateway);
            assert!((1..=3).contains(&them.gateway.0));
        }
    }
    let mark = Incarnation(source.below(3) as u128).mark();
    let known = Known { mark, start: source.number(5), run: 6, key: None };
    let key = |source: &mut Source| GatewayKey([source.below(3) as u8; 32]);
    match admit(&KnownPeer::at(String::new()), Some(&known), &them, key(source)) {
        Err(why) => assert!(why.0.len() <= MAX_SAID_BYTES),
        Ok(_) => assert!(them.incarnation.mark() == known.mark && them.start >= known.start),
    }
    let named = KnownPeer {
        key: source.flag().then(|| key(source)),
        incarnation: source.flag().then(|| Incarnation(source.below(3) as u128)),
        ..KnownPeer::at(String::new())
    };
    let (known, shown) = (Known { key: source.flag().then(|| key(source)), ..known }, key(source));
    match admit(&named, Some(&known), &them, shown) {
        Err(why) => assert!(why.0.len() <= MAX_SAID_BYTES),
        Ok(_) => {
            assert!(named.may_have(shown) && named.incarnation.is_none_or(|i| i == them.incarnation));
            assert!(
                named.key.is_some() || named.incarnation.is_some() || known.key.is_none_or(|k| k == shown)
            );
        }
    }
}

fn frame(bytes: &[u8]) {
    let Ok(frame) = PeerFrame::decode(bytes) else { return };
    // Compared as bytes, for a value that is no number is not equal to itself.
    let again = PeerFrame::decode(&frame.encode()).expect("what was decoded encodes").encode();
    assert_eq!(again, frame.encode());
    for message in &frame.messages {
        if let PeerMessage::Detoured { from, message } = message
            && let Ok(inside) = detour::arrived(GatewayId(2), *from, message, |_| true)
        {
            assert!(detour::may_take(&inside));
        }
    }
    // On to another peer: nothing that was taken in is too much for a link, and what it gives decodes.
    let mut link = Link::new(GatewayId(1), GatewayId(2));
    link.handshaking();
    link.connected(0, Dialled { by: GatewayId(1), start: 1 });
    let count = frame.messages.len();
    link.send(frame.messages);
    let mut passed = 0;
    while let Some(bytes) = link.next_frame(0, ClockNote::default) {
        assert!(bytes.len() <= MAX_PEER_FRAME_BYTES);
        passed += PeerFrame::decode(&bytes).expect("a link's frame decodes").messages.len();
    }
    let counts = link.counts().total();
    let dropped = counts.dropped_full + counts.dropped_long + counts.replaced;
    assert_eq!(passed as u64 + dropped, count as u64);
}
