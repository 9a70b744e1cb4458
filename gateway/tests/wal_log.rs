//! The log on a real disk.

use selvedge_gateway::wal::{Log, RealDisk, Record, Room, Settings};
use std::sync::Arc;

fn record(group: u16, slot: u64, text: &str) -> Record {
    Record { group, configuration: 1, kind: 2, ballot: (3, 4), slot, payload: Arc::from(text.as_bytes()) }
}

#[test]
fn what_was_committed_on_a_real_disk_is_read_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(folder.path().join("wal")).unwrap());
    let settings = Settings { segment_bytes: 64 * 1024, keep_free_bytes: 0, ..Settings::new([7; 16]) };
    let mut wanted = Vec::new();
    for start in 0..3 {
        let mut read = Vec::new();
        let (mut log, recovery) = Log::open(disk.clone(), settings.clone(), &mut |r| read.push(r)).unwrap();
        assert_eq!(read, wanted);
        assert!(recovery.damaged_groups.is_empty());
        assert_eq!(log.room(), Room::Plenty);
        for i in 0..200u64 {
            let batch = [record(1, start * 200 + i + 1, &"a".repeat(300)), record(2, start * 200 + i + 1, "b")];
            log.commit(&batch).unwrap();
            wanted.extend(batch);
        }
        assert!(log.stats().segments > 2, "{:?}", log.stats());
    }
}
