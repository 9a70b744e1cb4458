use super::*;
#[cfg(unix)]
use selvedge_guard::private::is_private;
use selvedge_types::sealed::MAX_SEALED_BYTES;
use selvedge_types::uplink::{Down, LedgerId, MAX_BATCH_BYTES, Up};

fn secret(n: u8) -> SiteSecret {
    SiteSecret(std::array::from_fn(|i| n ^ (i as u8)))
}

fn site(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

fn opener<M: Sealable>() -> Opener<M> {
    let mut opener = Opener::new();
    opener.add(&site("a"), &secret(1));
    opener.add(&site("b"), &secret(2));
    opener
}

fn beacon() -> Up {
    Up::Beacon { first_kept: 3, last: 9 }
}

fn up_sealer() -> Sealer<Up> {
    Sealer::with_salt(&secret(1), &site("a"), [7; SALT_BYTES])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn a_frame_has_these_bytes() {
    let mut up = up_sealer();
    let frames: Vec<String> = (0..2).map(|_| hex(&up.seal(ShardId(5), 9, &beacon()).unwrap())).collect();
    let mut down: Sealer<Down> = Sealer::with_salt(&secret(1), &site("a"), [7; SALT_BYTES]);
    let confirm = hex(&down.seal(ShardId(5), 9, &Down::Confirm { ledger: LedgerId(1), cursor: 9 }).unwrap());
    assert_eq!(
        frames[0],
        "0201a25ab994c9f13e9207070707070707070707070707070707070707070707070707070707070707070000000000000000090000000000000000000000000000000000000000000000000000000000000090e364dcf78f7995d69548084fc126ca1dfd44a6"
    );
    assert_eq!(
        frames[1],
        "0201a25ab994c9f13e92070707070707070707070707070707070707070707070707070707070707070701000000000000000900000000000000000000000000000000000000000000000000000000000000e2d6313904996c8fd75275bf2e08710cbf6de20d"
    );
    assert_eq!(
        confirm,
        "0202a25ab994c9f13e92070707070707070707070707070707070707070707070707070707070707070700000000000000000900000000000000000000000000000000000000000000000000000000000000f778bb18cf7afdcdafebee17248f25cf4d9017e7"
    );
    assert_eq!(
        hex(&link_psk(&secret(1), &site("a"))),
        "85d673e337902a3de72b81850787ace5bb869188a955e11a933c27d25513dd6a"
    );
    assert_eq!(secret(1).id().to_string(), "a25ab994c9f13e92");
}

#[test]
fn what_was_sealed_opens_with_its_seq() {
    let mut sealer = Sealer::<Up>::new(&secret(1), &site("a")).unwrap();
    let mut opener = opener::<Up>();
    for seq in 1..=3 {
        let bytes = sealer.seal(ShardId(5), seq, &beacon()).unwrap();
        assert_eq!(opener.open(&site("a"), ShardId(5), &bytes), Ok((seq, beacon())));
    }
}

#[test]
fn a_frame_with_any_bit_flipped_or_any_byte_missing_is_refused() {
    let mut opener = opener::<Up>();
    let good = up_sealer().seal(ShardId(5), 9, &beacon()).unwrap();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let refused = opener.open(&site("a"), ShardId(5), &bad).unwrap_err();
        let expected = match bit / 8 {
            0 => matches!(refused, SealError::Version(_)),
            1 => refused == SealError::Direction,
            2..10 => matches!(refused, SealError::UnknownSecret(_)),
            _ => refused == SealError::NotAuthentic,
        };
        assert!(expected, "bit {bit}: {refused}");
    }
    for cut in 0..good.len() {
        assert!(opener.open(&site("a"), ShardId(5), &good[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [good, vec![0]].concat();
    assert_eq!(opener.open(&site("a"), ShardId(5), &longer), Err(SealError::NotAuthentic));
    let huge = vec![0; MAX_SEALED_BYTES + 1];
    assert_eq!(opener.open(&site("a"), ShardId(5), &huge), Err(SealError::TooLarge(huge.len())));
}

#[test]
fn a_frame_opens_nowhere_but_where_it_belongs() {
    let good = up_sealer().seal(ShardId(5), 9, &beacon()).unwrap();
    let mut opener = opener::<Up>();
    assert_eq!(opener.open(&site("a"), ShardId(6), &good), Err(SealError::NotAuthentic));
    // Its secret is not one of site b's, nor of a site nobody knows.
    for other in ["b", "c"] {
        let refused = opener.open(&site(other), ShardId(5), &good);
        assert_eq!(refused, Err(SealError::UnknownSecret(secret(1).id())));
    }
    // Even if both sites share a secret, a frame of one is none of the other's.
    opener.add(&site("b"), &secret(1));
    assert_eq!(opener.open(&site("b"), ShardId(5), &good), Err(SealError::NotAuthentic));
    // Renumbered: the seq stands in the header's last eight bytes.
    let mut renumbered = good.clone();
    renumbered[HEADER_BYTES - 8] = 10;
    assert_eq!(opener.open(&site("a"), ShardId(5), &renumbered), Err(SealError::NotAuthentic));
    assert!(opener.open(&site("a"), ShardId(5), &good).is_ok());
}

#[test]
fn a_reflected_frame_is_refused_even_with_its_direction_rewritten() {
    let mut reflected = up_sealer().seal(ShardId(5), 9, &beacon()).unwrap();
    let mut opener = opener::<Down>();
    assert_eq!(opener.open(&site("a"), ShardId(5), &reflected), Err(SealError::Direction));
    reflected[1] = Down::DIRECTION;
    assert_eq!(opener.open(&site("a"), ShardId(5), &reflected), Err(SealError::NotAuthentic));
}

#[test]
fn no_nonce_and_no_salt_comes_twice() {
    let mut sealer = up_sealer();
    let first = sealer.seal(ShardId(5), 9, &beacon()).unwrap();
    assert_ne!(first, sealer.seal(ShardId(5), 9, &beacon()).unwrap());
    let salts: Vec<_> = (0..2).map(|_| Sealer::<Up>::new(&secret(1), &site("a")).unwrap().salt).collect();
    assert_ne!(salts[0], salts[1]);
    sealer.next = u64::MAX;
    assert_eq!(sealer.seal(ShardId(5), 9, &beacon()), Err(SealError::Exhausted));
    assert_eq!(sealer.seal(ShardId(5), 9, &beacon()), Err(SealError::Exhausted), "for good");
}

#[test]
fn the_largest_batch_fits_and_a_larger_one_is_refused() {
    let body = |n| Up::Batch { first_kept: u64::MAX, last: u64::MAX, body: vec![0; n] };
    let mut sealer = up_sealer();
    assert!(sealer.seal(ShardId(5), 9, &body(MAX_BATCH_BYTES)).unwrap().len() <= MAX_SEALED_BYTES);
    let refused = sealer.seal(ShardId(5), 9, &body(MAX_BATCH_BYTES + 100));
    assert!(matches!(refused, Err(SealError::TooLarge(_))));
}

#[test]
fn remembered_keys_are_bounded_and_forged_salts_displace_none() {
    let mut opener = opener::<Up>();
    let frame = |n: u8| {
        let mut sealer: Sealer<Up> = Sealer::with_salt(&secret(1), &site("a"), [n; SALT_BYTES]);
        sealer.seal(ShardId(5), 9, &beacon()).unwrap()
    };
    opener.open(&site("a"), ShardId(5), &frame(0)).unwrap();
    for n in 1..200 {
        let mut forged = frame(n);
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(opener.open(&site("a"), ShardId(5), &forged), Err(SealError::NotAuthentic));
    }
    assert_eq!(opener.sites[&site("a")].keys.len(), 1);
    for n in 0..200 {
        opener.open(&site("a"), ShardId(5), &frame(n)).unwrap();
    }
    let keys = &opener.sites[&site("a")].keys;
    assert_eq!(keys.len(), MAX_CACHED_KEYS_ENTRIES);
    assert_eq!(keys.last().map(|k| k.0.2[0]), Some(199));
}

#[test]
fn secrets_change_without_a_pause() {
    let (old, new) = (secret(1), secret(3));
    let mut opener = opener::<Up>();
    opener.add(&site("a"), &new);
    for s in [old, new] {
        let bytes = Sealer::<Up>::new(&s, &site("a")).unwrap().seal(ShardId(5), 9, &beacon()).unwrap();
        assert!(opener.open(&site("a"), ShardId(5), &bytes).is_ok());
    }
}

#[test]
fn a_secret_is_read_from_hex_and_never_shown() {
    let made = SiteSecret::generate().unwrap();
    let text = made.reveal_hex();
    assert_eq!(SiteSecret::from_hex(&format!(" {}\n", text.to_uppercase())).unwrap(), made);
    let shown = format!("{made:?} {}", serde_json::to_string(&made).unwrap());
    assert!(!shown.contains(&text) && !shown.contains(&text[..16]), "{shown}");
    for bad in ["", "abc", &text[1..], &format!("{}g", &text[1..]), &format!("{text}00"), "ä"] {
        let said = SiteSecret::from_hex(bad).unwrap_err().to_string();
        assert!(said.contains("openssl rand -hex 32"), "{said}");
    }
    for bad in ["0".repeat(64), "12".repeat(32)] {
        assert!(matches!(SiteSecret::from_hex(&bad), Err(SecretError::NotRandom)));
    }
    let said = serde_json::from_str::<SiteSecret>(&format!("\"{text}0\"")).unwrap_err().to_string();
    assert!(!said.contains(&text[..16]), "{said}");
}

#[test]
fn a_secret_file_is_made_private_and_refused_when_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let made = SiteSecret::generate().unwrap();
    made.create_file(&path).unwrap();
    assert_eq!(SiteSecret::from_file(&path).unwrap(), made);
    assert!(made.create_file(&path).is_err(), "an existing secret is not overwritten");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let said = SiteSecret::from_file(&path).unwrap_err().to_string();
        assert!(said.contains("chmod 600") && !said.contains(&made.reveal_hex()), "{said}");
        assert!(is_private(0o100600, 1000) && is_private(0o100440, 0));
        assert!(!is_private(0o100640, 1000) && !is_private(0o100460, 0) && !is_private(0o100604, 0));
    }
    let said = SiteSecret::from_file(folder.path()).unwrap_err().to_string();
    assert!(said.contains("directory") && !said.contains("chmod"), "{said}");
    assert!(SiteSecret::from_file(&folder.path().join("none")).unwrap_err().to_string().contains("none"));
}
