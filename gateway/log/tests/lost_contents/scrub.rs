//! Scrubs at running gateways: rotten files are restored from the other gateways before they are needed.

use super::site::{Gateway, SHARD, Site, now};
use selvedge_fabric::replica::Said;
use selvedge_fabric::uplink::UplinkContent;
use selvedge_log::storage::FileKind;
use selvedge_log::{Disk, Log, LogOptions};
use selvedge_types::ids::GatewayId;

/// The gateways that do not lead.
fn followers(site: &Site) -> Vec<GatewayId> {
    let leader = site.leader();
    site.gateways.keys().copied().filter(|id| *id != leader).collect()
}

fn scrub(site: &mut Site, at: GatewayId) {
    let now = now(site.now_ms);
    site.at(at).scrub(now);
    site.settle();
}

/// How much scrubs of one gateway have found since the last call, and what was mended.
fn outcome(gateway: &mut Gateway) -> (usize, Vec<FileKind>) {
    (std::mem::take(&mut gateway.rotten), std::mem::take(&mut gateway.mended))
}

#[test]
fn rotten_and_removed_batches_of_a_follower_are_fetched_while_others_have_them() {
    let mut site = Site::after(12);
    let (stored, at) = (site.stored(), followers(&site)[0]);
    scrub(&mut site, at);
    assert_eq!(outcome(site.at(at)), (0, vec![]));
    let files: Vec<_> = stored.iter().map(|seq| format!("batches/0000/batch-{seq:016x}")).collect();
    let read = |site: &mut Site| -> Vec<_> {
        files.iter().map(|name| site.at(at).disk.bytes(name).unwrap()).collect()
    };
    let before = read(&mut site);
    site.at(at).rot(stored[1]);
    site.at(at).rot(stored[4]);
    site.at(at).remove(stored[6]);
    scrub(&mut site, at);
    assert_eq!(outcome(site.at(at)), (3, vec![FileKind::Batch; 3]));
    assert!(before == read(&mut site), "as they were");
    scrub(&mut site, at);
    assert_eq!(outcome(site.at(at)), (0, vec![]));
    // So nothing is lost when the others lose it later.
    for other in site.gateways.keys().copied().filter(|id| *id != at).collect::<Vec<_>>() {
        site.at(other).rot(stored[1]);
    }
    assert_eq!(site.load(stored[1]), UplinkContent::NotNow);
    assert!(matches!(site.load(stored[1]), UplinkContent::Here(_)));
}

/// A rotten content may have been only in the memory of a process that ended, because the disk had no room to store it
/// again.
#[test]
fn a_content_that_has_no_file_when_a_gateway_starts_is_fetched_too() {
    let mut site = Site::after(12);
    let (stored, at) = (site.stored(), followers(&site)[0]);
    let clock = now(site.now_ms);
    site.at(at).replica.said(clock, Said::SnapshotWanted);
    site.settle();
    assert!(!site.at(at).saved.is_empty(), "a snapshot lists them");
    site.at(at).remove(stored[2]);
    site.restart(at);
    site.run(1_000);
    scrub(&mut site, at);
    assert_eq!(outcome(site.at(at)), (1, vec![FileKind::Batch]));
    scrub(&mut site, at);
    assert_eq!(outcome(site.at(at)), (0, vec![]));
    assert!(site.at(at).stores.batches.has(SHARD.0, stored[2]));
}

#[test]
fn what_nobody_has_is_found_before_the_uplink_needs_it() {
    let mut site = Site::after(12);
    let (stored, leader) = (site.stored(), site.leader());
    site.gateways.values_mut().for_each(|gateway| gateway.rot(stored[2]));
    for at in followers(&site) {
        scrub(&mut site, at);
        assert_eq!((outcome(site.at(at)), site.marked(stored[2])), ((1, vec![]), 0), "its leader says so");
    }
    scrub(&mut site, leader);
    site.run(1_000); // the others learn of it
    assert_eq!(site.marked(stored[2]), 3);
}

#[test]
fn a_rotten_snapshot_is_made_again_though_nothing_was_applied_since() {
    let mut site = Site::after(5);
    let at = followers(&site)[0];
    let clock = now(site.now_ms);
    site.at(at).replica.said(clock, Said::SnapshotWanted);
    site.settle();
    let slot = *site.at(at).saved.last().unwrap();
    let name = format!("snapshots/snapshot-{:04x}-{slot:016x}", SHARD.0);
    site.at(at).disk.meddle(&name, |bytes| bytes[100] ^= 1);
    assert!(site.at(at).stores.snapshots.load_newest(SHARD.0).is_err());
    scrub(&mut site, at);
    assert_eq!(outcome(site.at(at)), (1, vec![FileKind::Snapshot]));
    assert!(site.at(at).stores.snapshots.load_newest(SHARD.0).unwrap().is_some());
}

#[test]
fn a_rotten_segment_of_the_log_is_trimmed_behind_snapshots_and_no_start_finds_damage() {
    let mut site = Site::after(5);
    let at = followers(&site)[0];
    let name = "log/wal-0000000000000001.log";
    let damaged = |gateway: &Gateway| {
        let settings = LogOptions { keep_free_bytes: 0, ..LogOptions::new([at.0 as u8; 16]) };
        let folder = gateway.disk.image().folder("log").unwrap();
        let (_, recovery) = Log::open(folder, settings, &mut |_| {}).unwrap();
        recovery.damaged_places > 0
    };
    site.at(at).disk.meddle(name, |bytes| bytes[700] ^= 1);
    assert!(damaged(site.at(at)), "a start would void its votes");
    scrub(&mut site, at);
    for _ in 0..3 {
        site.publish();
        site.run(1_000);
        let clock = now(site.now_ms);
        site.at(at).look(clock);
        site.settle();
    }
    assert_eq!(outcome(site.at(at)), (1, vec![FileKind::Segment]));
    assert!(site.at(at).disk.bytes(name).is_none());
    assert!(!damaged(site.at(at)));
}
