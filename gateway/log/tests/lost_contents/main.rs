//! Questions about recent windows, and the uplink, where disks have lost contents of batches; and how scrubs restore
//! what was lost.

mod scrub;
mod site;

use selvedge_fabric::replica::{FETCH_WAIT_MS, Said};
use selvedge_fabric::uplink::UplinkContent;
use selvedge_types::uplink::LostBatch;
use site::{SHARD, Site, count, now};

#[test]
fn what_the_leader_has_lost_is_fetched_from_the_others_and_kept() {
    let mut site = Site::after(20);
    let (leader, stored) = (site.leader(), site.stored());
    assert!(stored.len() > 10, "{stored:?}");
    let (whole, took_ms) = site.ask();
    assert_eq!((count(&whole), whole.lacking, took_ms), (20, 0, 0));
    assert_eq!(site.at(leader).fetches, 0);
    // Some contents are gone, and one can't be read.
    site.at(leader).stores.batches.remove_through(SHARD.0, stored[3]).unwrap();
    site.at(leader).rot(stored[5]);
    let (answer, took_ms) = site.ask();
    assert_eq!((answer, took_ms), (whole.clone(), 0));
    assert_eq!(site.at(leader).fetches, 5 * 2, "each of both others");
    // The next question finds them in memory, even when no other gateway has them.
    site.gateways.values_mut().for_each(|gateway| gateway.mute = true);
    assert_eq!(site.ask(), (whole, 0));
    assert_eq!(site.at(leader).fetches, 5 * 2);
}

#[test]
fn what_one_other_has_lost_too_comes_from_the_third() {
    let mut site = Site::after(12);
    let (leader, stored) = (site.leader(), site.stored());
    let (whole, _) = site.ask();
    let others: Vec<_> = site.gateways.keys().copied().filter(|id| *id != leader).collect();
    for (n, other) in others.iter().enumerate() {
        site.at(leader).rot(stored[n]);
        site.at(*other).rot(stored[n]);
    }
    assert_eq!(site.ask().0, whole);
}

#[test]
fn what_nobody_has_is_told_as_lacking_at_once_and_what_nobody_answers_for_after_a_while() {
    let mut site = Site::after(12);
    let (leader, stored) = (site.leader(), site.stored());
    site.gateways.values_mut().for_each(|gateway| gateway.rot(stored[2]));
    let (answer, took_ms) = site.ask();
    assert_eq!((count(&answer), answer.lacking, took_ms), (11, 1, 0));
    site.gateways.values_mut().for_each(|gateway| gateway.mute = true);
    site.at(leader).rot(stored[4]);
    let (answer, took_ms) = site.ask();
    assert_eq!((count(&answer), answer.lacking), (10, 2));
    assert!((FETCH_WAIT_MS..FETCH_WAIT_MS + 200).contains(&took_ms), "{took_ms}");
    // The others answer again.
    site.gateways.values_mut().for_each(|gateway| gateway.mute = false);
    let (answer, _) = site.ask();
    assert_eq!((count(&answer), answer.lacking), (11, 1));
}

#[test]
fn a_batch_that_all_have_lost_is_given_up_and_the_uplink_is_told_what_it_held() {
    let mut site = Site::after(12);
    let (leader, stored) = (site.leader(), site.stored());
    let seq = stored[2];
    site.gateways.values_mut().for_each(|gateway| gateway.rot(seq));
    let record = site.at(leader).replica.core().machine().batch_record(seq).unwrap();
    assert_eq!(site.load(seq), UplinkContent::NotNow);
    site.run(1_000); // the others learn of it
    assert_eq!(site.marked(seq), 3);
    let machine = site.at(leader).replica.core().machine();
    let outbox = machine.outbox_stats();
    let others = (1..=outbox.last).filter(|other| *other != seq);
    let bytes: u64 = others.map(|other| u64::from(machine.batch_record(other).unwrap().bytes)).sum();
    assert_eq!((outbox.lost, outbox.bytes), (1, bytes), "it takes no room any more");
    let lost = LostBatch { readings: 1, parts: 1, from: record.from, to: record.to };
    assert_eq!(site.load(seq), UplinkContent::Lost(lost));
    assert!(matches!(site.load(stored[3]), UplinkContent::Here(_)));
    assert_eq!(site.at(leader).replica.core().status(now(0)).lost_batches, 1);
    // The loss is chosen once, and never revoked.
    let slot = site.at(leader).replica.core().machine().slot();
    site.gateways.values_mut().for_each(|gateway| gateway.rot(seq)); // the content rots again
    assert_eq!(site.load(seq), UplinkContent::Lost(lost));
    assert_eq!(site.at(leader).replica.core().machine().slot(), slot);
    // No gateway is asked for it any more, and answers say that it is missing.
    let fetches = site.at(leader).fetches;
    let (answer, took_ms) = site.ask();
    assert_eq!((count(&answer), answer.lacking, took_ms), (11, 1, 0));
    assert_eq!(site.at(leader).fetches, fetches);
}

#[test]
fn neither_silence_nor_doubt_gives_a_batch_up_and_whoever_has_it_wins() {
    let mut site = Site::after(12);
    let (leader, stored) = (site.leader(), site.stored());
    let seq = stored[2];
    let others: Vec<_> = site.gateways.keys().copied().filter(|id| *id != leader).collect();
    site.at(leader).rot(seq);
    site.at(others[0]).rot(seq);
    let tries = |site: &mut Site| {
        for _ in 0..5 {
            assert_eq!(site.load(seq), UplinkContent::NotNow);
            site.run(2_000);
        }
        assert_eq!(site.marked(seq), 0);
    };
    site.at(others[1]).mute = true;
    tries(&mut site);
    site.at(others[1]).mute = false;
    site.at(others[1]).set_version(seq, 2);
    tries(&mut site);
    site.at(others[1]).set_version(seq, 1);
    assert_eq!(site.load(seq), UplinkContent::NotNow);
    assert!(matches!(site.load(seq), UplinkContent::Here(_)), "it was fetched");
    assert_eq!(site.marked(seq), 0);
}

#[test]
fn a_batch_whose_files_are_gone_is_given_up_and_snapshots_go_on_without_it() {
    let mut site = Site::after(12);
    let stored = site.stored();
    let seq = stored[0];
    for gateway in site.gateways.values_mut() {
        gateway.stores.batches.remove_through(SHARD.0, seq).unwrap();
        gateway.replica.said(now(0), Said::SnapshotWanted);
    }
    site.settle();
    assert!(
        site.gateways.values().all(|gateway| gateway.saved.is_empty()),
        "it would count without the content"
    );
    for seq in 1..=seq {
        assert_eq!(site.load(seq), UplinkContent::NotNow);
        site.run(1_000); // the others learn of it
        assert_eq!(site.marked(seq), 3);
    }
    for gateway in site.gateways.values_mut() {
        gateway.replica.said(now(0), Said::SnapshotWanted);
    }
    site.settle();
    assert!(site.gateways.values().all(|gateway| gateway.saved.len() == 1));
}
