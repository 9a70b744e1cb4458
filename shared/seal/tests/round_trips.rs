//! What is sealed opens as it was, and nothing else does: no flipped bit of it, and not elsewhere.

use proptest::prelude::*;
use selvedge_seal::{Opener, Sealer, SiteSecret};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sealed::SEAL_OVERHEAD_BYTES;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Down, LedgerId, LostBatch, Up};

fn up() -> impl Strategy<Value = Up> {
    let body = prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![
        (any::<u64>(), any::<u64>(), body).prop_map(|(first_kept, last, body)| Up::Batch {
            first_kept,
            last,
            body
        }),
        any::<(u64, u64)>().prop_map(|(first_kept, last)| Up::Beacon { first_kept, last }),
        any::<(u64, u64, u64, u32, i64, i64)>().prop_map(|(first_kept, last, readings, parts, from, to)| {
            Up::Lost {
                first_kept,
                last,
                lost: LostBatch { readings, parts, from: EpochMs(from), to: EpochMs(to) },
            }
        }),
    ]
}

fn site() -> impl Strategy<Value = SiteId> {
    "[a-z0-9-]{1,32}".prop_map(|name| SiteId::new(name).unwrap())
}

proptest! {
    #[test]
    fn a_sealed_message(site in site(), shard in any::<u16>(), seq in any::<u64>(), up in up(), flip in any::<(prop::sample::Index, u8)>()) {
        let secret = SiteSecret::generate().unwrap();
        let mut sealer = Sealer::new(&secret, &site).unwrap();
        let mut opener = Opener::new();
        opener.add(&site, &secret);
        let mut sealed = sealer.seal(ShardId(shard), seq, &up).unwrap();
        prop_assert!(sealed.len() > SEAL_OVERHEAD_BYTES);
        prop_assert_eq!(opener.open(&site, ShardId(shard), &sealed), Ok((seq, up)));
        prop_assert!(opener.open(&site, ShardId(shard.wrapping_add(1)), &sealed).is_err(), "moved");
        prop_assert!(Opener::<Down>::new().open(&site, ShardId(shard), &sealed).is_err(), "reflected");
        let at = flip.0.index(sealed.len());
        sealed[at] ^= 1 << (flip.1 % 8);
        prop_assert!(opener.open(&site, ShardId(shard), &sealed).is_err(), "a flipped bit of byte {at}");
    }

    #[test]
    fn a_confirmation(site in site(), shard in any::<u16>(), cursor in any::<u64>()) {
        let secret = SiteSecret::generate().unwrap();
        let sealed = Sealer::new(&secret, &site).unwrap().seal(ShardId(shard), cursor, &Down::Confirm { ledger: LedgerId(7), cursor });
        let mut opener = Opener::new();
        opener.add(&site, &secret);
        prop_assert_eq!(opener.open(&site, ShardId(shard), &sealed.unwrap()), Ok((cursor, Down::Confirm { ledger: LedgerId(7), cursor })));
    }

    #[test]
    fn a_secret_as_digits(_ in 0..1) {
        let secret = SiteSecret::generate().unwrap();
        prop_assert!(SiteSecret::from_hex(&secret.reveal_hex()).unwrap() == secret);
        prop_assert!(SiteSecret::from_hex(&secret.reveal_hex().to_uppercase()).unwrap() == secret);
    }
}
