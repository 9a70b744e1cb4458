//! Bytes that no honest gateway sends give an error or a directory within its bounds, never a panic.

use crate::golden::{eventful, every_command};
use crate::source::Source;
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
fn proposals_of_whatever_bytes() {
    let all = every_command().into_iter().map(|command| (None, command)).collect();
    let proposal = DirectoryProposal { elapsed: ElapsedMs(9), commands: all }.encode();
    let site = eventful();
    let (mut read, mut halted) = (0, 0);
    for seed in 0..6_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bytes = mutated(&mut random, proposal.clone());
        let mut directory = site.directory.clone();
        let slot = directory.slot() + 1;
        match directory.apply(slot, &bytes) {
            Ok(outcomes) => {
                read += 1;
                for outcome in outcomes {
                    if let DirectoryOutcome::Refused(why) = outcome {
                        assert!(why.to_string().len() < 400, "{why}");
                    }
                }
                let snapshot = directory.snapshot();
                assert_eq!(Directory::restore(&snapshot).unwrap().snapshot(), snapshot, "seed {seed}");
            }
            Err(halt) => {
                halted += 1;
                assert!(matches!(halt, DirectoryHalt::Undecodable { .. }));
                assert_eq!(directory.snapshot(), site.directory.snapshot(), "a halt changes nothing");
            }
        }
    }
    assert!(read > 500 && halted > 500, "{read} read, {halted} halted");
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
            let proposal = DirectoryProposal::of(ElapsedMs(random.u64(..)), command);
            let slot = directory.slot() + 1;
            if slot < 1 << 60 {
                directory.apply(slot, &proposal.encode()).unwrap();
            }
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
    let mut directory = site.directory.clone();
    let slot = directory.slot() + 1;
    let newer = DIRECTORY_PROPOSAL_VERSION + 1;
    assert_eq!(unknown_directory_version(&[newer, 1, 2]), Some(newer));
    assert_eq!(unknown_directory_version(&DirectoryProposal::default().encode()), None);
    assert_eq!(unknown_directory_version(&[]), None);
    let halt = directory.apply(slot, &[newer, 1, 2]).unwrap_err();
    assert!(halt.to_string().contains("a newer release wrote it"), "{halt}");

    let mut bytes = directory.snapshot();
    bytes[0] += 1;
    let refused = Directory::restore(&bytes).unwrap_err();
    assert!(matches!(refused, DirectoryRestoreError::Frame(FrameError::Version { .. })), "{refused}");
    let mut bytes = directory.snapshot();
    *bytes.last_mut().unwrap() ^= 1;
    assert!(matches!(Directory::restore(&bytes), Err(DirectoryRestoreError::Damaged(_))));
    assert!(matches!(Directory::restore(&[]), Err(DirectoryRestoreError::Damaged(0))));
}

#[test]
fn only_the_next_slot_is_applied_and_an_empty_one_holds_nothing() {
    let mut directory = eventful().directory;
    let (slot, before) = (directory.slot(), directory.snapshot());
    for wrong in [0, slot, slot + 2] {
        let halt = directory.apply(wrong, &[]).unwrap_err();
        assert_eq!(halt, DirectoryHalt::Slot { expected: slot + 1, found: wrong });
    }
    assert_eq!(directory.snapshot(), before);
    assert_eq!(directory.apply(slot + 1, &[]), Ok(vec![]));
}
