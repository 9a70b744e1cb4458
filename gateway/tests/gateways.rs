//! Three real gateways and clients that speak MQTT byte by byte: sessions that move between gateways,
//! resends, takeover, wills, subscriptions, kill -9 and the loss of the majority.

mod gateways {
    pub mod client;
    pub mod site;
}

use gateways::client::{Client, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC};
use gateways::site::Site;

#[test]
fn a_persistent_session_goes_on_at_another_gateway_and_resends_count_once() {
    let site = Site::start();
    let mut a = Client::connect(site.mqtt(0), "press-1", false, None).unwrap();
    assert!(!a.session_present);
    a.subscribe("live/#");
    a.publish("d/press-1/force", "5", 1, 7, false);
    assert_eq!(a.packet(PUBACK), [0, 7]);
    drop(a);
    // QoS 1: the same packet id and bytes, marked as a resend, elsewhere.
    let mut b = Client::connect(site.mqtt(1), "press-1", false, None).unwrap();
    assert!(b.session_present);
    b.publish("d/press-1/force", "5", 1, 7, true);
    assert_eq!(b.packet(PUBACK), [0, 7]);
    assert_eq!(site.count(2, "press-1"), 1);
    // Its subscription came along.
    let mut other = Client::connect(site.mqtt(2), "other", true, None).unwrap();
    site.until("the subscription is known at the third gateway", || {
        other.publish("live/x", "hello", 1, 1, false);
        other.packet(PUBACK);
        b.try_packet(PUBLISH).is_some_and(|body| body.ends_with(b"hello"))
    });
    // QoS 2: abandoned between PUBREC and PUBREL.
    b.publish("d/press-1/force", "6", 2, 9, false);
    assert_eq!(b.packet(PUBREC), [0, 9]);
    drop(b);
    let mut c = Client::connect(site.mqtt(2), "press-1", false, None).unwrap();
    c.publish("d/press-1/force", "6", 2, 9, true);
    assert_eq!(c.packet(PUBREC), [0, 9]);
    assert_eq!(site.count(0, "press-1"), 2);
    c.release(9);
    assert_eq!(c.packet(PUBCOMP), [0, 9]);
    // The packet id is free again: the same bytes are another reading.
    c.publish("d/press-1/force", "6", 2, 9, false);
    assert_eq!(c.packet(PUBREC), [0, 9]);
    assert_eq!(site.count(1, "press-1"), 3);
    // Whoever connects last has the session.
    let d = Client::connect(site.mqtt(0), "press-1", false, None).unwrap();
    assert!(d.session_present);
    assert!(c.is_closed());
}

#[test]
fn a_will_is_published_when_its_client_vanishes_and_not_when_it_takes_leave() {
    let site = Site::start();
    let mut hmi = Client::connect(site.mqtt(1), "hmi", true, None).unwrap();
    hmi.subscribe("will/+");
    let leaves = Client::connect(site.mqtt(1), "leaves", true, Some(("will/leaves", "gone"))).unwrap();
    leaves.disconnect();
    drop(Client::connect(site.mqtt(1), "vanishes", true, Some(("will/vanishes", "gone"))).unwrap());
    let body = hmi.packet(PUBLISH);
    assert!(
        String::from_utf8_lossy(&body).contains("will/vanishes"),
        "the first that comes is not of who took leave"
    );
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_without_a_majority_nothing_is_acknowledged() {
    let mut site = Site::start();
    let mut device = Client::connect(site.mqtt(0), "d9", true, None).unwrap();
    for n in 1..=50 {
        device.publish("d/d9/x", "1", 1, n, false);
    }
    for n in 1..=50_u16 {
        assert_eq!(device.packet(PUBACK), n.to_be_bytes(), "in order");
    }
    site.kill(1);
    assert_eq!(site.count(0, "d9"), 50);
    assert_eq!(site.count(2, "d9"), 50);
    device.publish("d/d9/x", "1", 1, 51, false);
    assert_eq!(device.packet(PUBACK), [0, 51], "two of three are a majority");
    site.kill(2);
    site.until("the first gateway sees that it is alone", || !site.is_ready(0));
    device.publish("d/d9/x", "1", 1, 52, false);
    device.ping();
    assert!(device.packet(PINGRESP).is_empty(), "a ping is answered while the publish before it waits");
    assert_eq!(Client::connect(site.mqtt(0), "late", false, None).err(), Some(3), "server unavailable");
    site.restart(1);
    assert_eq!(device.packet(PUBACK), [0, 52], "kept as soon as there is a majority again");
    site.restart(2);
    assert_eq!(site.count(2, "d9"), 52);
}
