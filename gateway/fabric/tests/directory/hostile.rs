//! Bytes that no honest gateway sends give an error or a directory within its bounds, never a panic.

use crate::golden::{eventful, every_command};
use crate::source::Source;
use bincode::config::standard;
use selvedge_fabric::directory::*;
use selvedge_types::frame::FrameError;
use selvedge_types::time::ElapsedMs;
use xxhash_rust::xxh3::xxh3_64;

fn mutated(random: &mut fastrand::Rng, mut bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..random.usize(1..5) {
        let at = random.usize(..bytes.len());
        match random.u32(..6) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes.insert(at, random.u8(..)),
            2 => {
                let number = Source::new(&[random.u8(..), random.u8(..), 0]).number(1);
                let number = bincode::encode_to_vec(number, bincode::config::standard()).unwrap();
                bytes.splice(at..at + 1, number);
            }
            3 => drop(bytes.remove(at)),
            _ => bytes[at] = random.u8(..),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
    bytes
}

#[test]
fn commands_of_whatever_bytes() {
    let all = bincode::encode_to_vec(every_command(), standard()).unwrap();
    let site = eventful();
    let mut read = 0;
    for seed in 0..6_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes = mutated(&mut random, all.clone());
        let Ok((commands, _)) = bincode::decode_from_slice::<Vec<DirectoryCommand>, _>(
            &bytes,
            standard().with_limit::<{ 1 << 20 }>(),
        ) else {
            continue;
        };
        read += 1;
        let mut directory = site.directory.clone();
        let slot = directory.slot() + 1;
        for command in commands {
            let outcome = directory.apply(slot, ElapsedMs(9), None, &command);
            if let DirectoryOutcome::Refused(why) = outcome {
                assert!(why.to_string().len() < 400, "{why}");
            }
        }
        let snapshot = directory.snapshot();
        assert_eq!(Directory::restore(&snapshot).unwrap().snapshot(), snapshot, "seed {seed}");
    }
    assert!(read > 500, "{read} read");
}

/// A forger can compute the checksum.
#[test]
fn snapshots_of_whatever_bytes_with_the_right_checksum() {
    let site = eventful();
    let mut whole = site.directory.snapshot();
    whole.truncate(whole.len() - 8);
    let mut taken = 0;
    for seed in 0..6_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = mutated(&mut random, whole.clone());
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        let Ok(mut directory) = Directory::restore(&bytes) else { continue };
        taken += 1;
        assert_eq!(directory.snapshot(), bytes, "seed {seed}: what is taken is what was written");
        let _ = plan(&directory, &site.seen);
        let _ = directory.health(&site.seen).to_string();
        for command in every_command() {
            directory.apply(directory.slot() + 1, ElapsedMs(random.u64(..)), None, &command);
        }
        let snapshot = directory.snapshot();
        assert!(
            Directory::restore(&snapshot).is_ok(),
            "seed {seed}: {:?}",
            Directory::restore(&snapshot).err()
        );
    }
    assert!(taken > 500, "{taken}");
}

#[test]
fn what_a_newer_release_wrote_is_not_damage() {
    let site = eventful();
    let directory = site.directory;
    let mut bytes = directory.snapshot();
    bytes[0] += 1;
    let refused = Directory::restore(&bytes).unwrap_err();
    assert!(matches!(refused, DirectoryRestoreError::Frame(FrameError::Version { .. })), "{refused}");
    let mut bytes = directory.snapshot();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(Directory::restore(&bytes), Err(DirectoryRestoreError::Damaged(_))));
    assert!(matches!(Directory::restore(&[]), Err(DirectoryRestoreError::Damaged(0))));
}
