//! Who gets what.

use crate::router::TooManyFilters;
use crate::*;
use bytes::Bytes;
use selvedge_types::mqtt::*;
use selvedge_types::topic::Filter;

fn sub(filter: &str, qos: QoS) -> Subscription {
    Subscription { filter: Filter::new(filter).unwrap(), qos, no_local: false }
}

/// How many it was queued for, and for how many it was not.
fn route(router: &Router, topic: &str, qos: QoS) -> (usize, usize) {
    let routed = router.route(None, &topic.into(), &Bytes::from_static(b"x"), qos);
    (routed.delivered, routed.failed)
}

fn got(handle: &Handle) -> Vec<(String, QoS)> {
    handle.take_deliveries().into_iter().map(|d| (d.topic.to_string(), d.qos)).collect()
}

#[test]
fn each_connection_gets_a_publish_once_at_its_greatest_qos() {
    let router = Router::new();
    let (a, b) = (
        Handle::detached(1, &ConnectionLimits::default()),
        Handle::detached(2, &ConnectionLimits::default()),
    );
    let many = [
        sub("t/1", QoS::AtMostOnce),
        sub("t/+", QoS::AtLeastOnce),
        sub("#", QoS::AtMostOnce),
        sub("t/#", QoS::AtMostOnce),
    ];
    router.subscribe(&a, &many).unwrap();
    router.subscribe(&b, &[sub("t/1", QoS::AtMostOnce)]).unwrap();
    assert_eq!(route(&router, "t/1", QoS::ExactlyOnce), (2, 0));
    assert_eq!(got(&a), [("t/1".to_string(), QoS::AtLeastOnce)]);
    assert_eq!(got(&b), [("t/1".to_string(), QoS::AtMostOnce)]);
    assert_eq!(route(&router, "t/1", QoS::AtMostOnce), (2, 0));
    assert_eq!(got(&a), [("t/1".to_string(), QoS::AtMostOnce)]);
}

#[test]
fn whether_somebody_listens_is_known_without_a_publish() {
    let router = Router::new();
    let a = Handle::detached(1, &ConnectionLimits::default());
    let listens = |topics: [&str; 4]| topics.map(|topic| router.listens(topic));
    let topics = ["t/1", "t/2", "u/v/w", "$SYS/x"];
    assert_eq!(listens(topics), [false; 4]);
    router.subscribe(&a, &[sub("t/1", QoS::AtMostOnce), sub("u/+/w", QoS::AtMostOnce)]).unwrap();
    assert_eq!(listens(topics), [true, false, true, false]);
    router.subscribe(&a, &[sub("#", QoS::AtMostOnce)]).unwrap();
    assert_eq!(listens(topics), [true, true, true, false]);
    router.disconnect(1);
    assert_eq!(listens(topics), [false; 4]);
}

#[test]
fn the_tree_finds_what_the_definition_finds() {
    let filters = [
        "a", "a/b", "/", "/a", "a/", "#", "+", "+/+", "a/#", "a/+", "a/+/c", "a/b/#", "+/b/#", "/+", "$s/#",
        "$s/+", "+/x", "a/+/#", "#",
    ];
    let topics = ["a", "a/b", "/", "/a", "a/", "a/b/c", "a//c", "b", "$s/x", "$s", "a/b/c/d", "a/$x"];
    let router = Router::new();
    let mut handles = Vec::new();
    for (n, filter) in filters.iter().enumerate() {
        let handle = Handle::detached(n as u64 + 1, &ConnectionLimits::default());
        router.subscribe(&handle, &[sub(filter, QoS::AtMostOnce)]).unwrap();
        handles.push((handle, filter));
    }
    for topic in topics {
        route(&router, topic, QoS::AtMostOnce);
        for (handle, filter) in &handles {
            let want = usize::from(selvedge_types::topic::matches(filter, topic));
            assert_eq!(got(handle).len(), want, "{filter} on {topic}");
        }
    }
    for (handle, _) in &handles {
        router.disconnect(handle.id());
    }
    assert_eq!(router.filters().1, []);
    assert_eq!(route(&router, "a/b", QoS::AtMostOnce), (0, 0));
}

#[test]
fn the_version_changes_with_the_set_of_filters_alone() {
    let router = Router::new();
    let (a, b) = (
        Handle::detached(1, &ConnectionLimits::default()),
        Handle::detached(2, &ConnectionLimits::default()),
    );
    router.subscribe(&a, &[sub("x", QoS::AtMostOnce)]).unwrap();
    let (one, filters) = router.filters();
    assert_eq!(filters, [Filter::new("x").unwrap()]);
    router.subscribe(&b, &[sub("x", QoS::AtLeastOnce)]).unwrap();
    router.subscribe(&a, &[sub("x", QoS::AtLeastOnce)]).unwrap();
    router.unsubscribe(1, &[Filter::new("x").unwrap(), Filter::new("y").unwrap()]);
    assert_eq!(router.version(), one);
    router.disconnect(2);
    router.disconnect(2);
    assert_ne!(router.version(), one);
    assert_eq!(router.filters().1, []);
}

#[test]
fn no_local_keeps_a_client_from_hearing_itself() {
    let router = Router::new();
    let a = Handle::detached(1, &ConnectionLimits::default());
    let quiet = Subscription { no_local: true, ..sub("x", QoS::AtMostOnce) };
    router.subscribe(&a, &[quiet]).unwrap();
    let (x, payload) = ("x".into(), Bytes::new());
    assert_eq!(router.route(Some(1), &x, &payload, QoS::AtMostOnce).delivered, 0);
    assert_eq!(router.route(Some(2), &x, &payload, QoS::AtMostOnce).delivered, 1);
}

#[test]
fn who_does_not_follow_loses_qos_0_and_is_closed_at_qos_1() {
    let router = Router::new();
    let a =
        Handle::detached(1, &ConnectionLimits { delivery_queue_entries: 2, ..ConnectionLimits::default() });
    router.subscribe(&a, &[sub("x", QoS::AtLeastOnce)]).unwrap();
    for _ in 0..3 {
        route(&router, "x", QoS::AtMostOnce);
    }
    assert_eq!((router.dropped(), a.dropped(), a.close_asked()), (1, 1, None));
    assert_eq!(route(&router, "x", QoS::AtLeastOnce), (0, 1));
    assert_eq!(a.close_asked(), Some(CloseReason::SlowConsumer));
    let b =
        Handle::detached(2, &ConnectionLimits { delivery_queue_bytes: 100, ..ConnectionLimits::default() });
    let large = Delivery { topic: "x".into(), payload: vec![0; 100].into(), qos: QoS::AtMostOnce };
    assert_eq!(b.deliver(large), Err(NotDelivered::Full));
}

#[test]
fn a_connection_has_a_bounded_number_of_filters() {
    let router = Router::new();
    let a = Handle::detached(1, &ConnectionLimits::default());
    for n in 0..MAX_CONNECTION_FILTER_ENTRIES {
        router.subscribe(&a, &[sub(&format!("f/{n}"), QoS::AtMostOnce)]).unwrap();
    }
    assert_eq!(router.subscribe(&a, &[sub("more", QoS::AtMostOnce)]), Err(TooManyFilters));
    assert!(router.subscribe(&a, &[sub("f/1", QoS::AtLeastOnce)]).is_ok(), "one that it has can change");
}

#[test]
fn stored_options_come_back() {
    for options in [0, 1, 4, 5] {
        assert_eq!(Subscription::from_options(Filter::new("a").unwrap(), options).options(), options);
    }
}
