//! What is written is read back as it was, and nothing else is: no piece of it, nothing behind it.

use proptest::prelude::*;
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sequences::{SequenceSpan, Sequences};
use selvedge_types::sparkplug::{Metric, MetricValue, Payload};
use selvedge_types::time::{EpochMs, TIME_RANGE};
use selvedge_types::topic::{Filter, check_name};
use selvedge_types::uplink::{Batch, Part, StreamName, ack_topic, parse_topic, up_topic};

fn time() -> impl Strategy<Value = EpochMs> {
    prop_oneof![any::<i64>(), -1000i64..1000, 1_764_000_000_000i64..1_764_100_000_000].prop_map(EpochMs)
}

fn sample() -> impl Strategy<Value = Sample> {
    (time(), any::<u64>(), any::<u32>(), -1e300..1e300).prop_map(|(time, slot, index, value)| Sample {
        time,
        slot,
        index,
        value,
    })
}

fn part(streams: u32) -> impl Strategy<Value = Part> {
    let aggregate = (sample(), prop::collection::vec(sample(), 0..40), any::<bool>()).prop_map(
        |(first, others, sketched)| {
            let mut all = if sketched { Aggregate::sketched(first) } else { Aggregate::of(first) };
            others.into_iter().for_each(|sample| all.add(sample));
            all
        },
    );
    let spans =
        prop::collection::vec((any::<Option<u64>>(), any::<(u64, u64)>(), 1u64..), 0..6).prop_map(|list| {
            let span = |(boot, (a, b), count): (_, (u64, u64), _)| SequenceSpan {
                boot,
                first: a.min(b),
                last: a.max(b),
                count,
            };
            Sequences::from_list(&list.into_iter().map(span).collect::<Vec<_>>())
        });
    let counts = (any::<u64>(), any::<u64>(), spans);
    (0..streams, 1u32.., time(), aggregate, time(), counts).prop_map(
        |(stream, width_ms, start, aggregate, watermark, (late, set_aside, sequences))| Part {
            stream,
            width_ms,
            start,
            aggregate,
            late,
            watermark,
            set_aside,
            sequences,
        },
    )
}

fn batch() -> impl Strategy<Value = Batch> {
    let name = (".{0,20}", ".{0,20}").prop_map(|(device, stream)| StreamName { device, stream });
    prop::collection::vec(name, 1..5).prop_flat_map(|streams| {
        let parts = prop::collection::vec(part(streams.len() as u32), 0..8);
        parts.prop_map(move |parts| Batch { streams: streams.clone(), parts })
    })
}

fn site() -> impl Strategy<Value = SiteId> {
    "[a-z0-9-]{1,32}".prop_map(|name| SiteId::new(name).unwrap())
}

fn metric() -> impl Strategy<Value = Metric> {
    let value = prop_oneof![
        any::<u32>().prop_map(MetricValue::Int),
        any::<u64>().prop_map(MetricValue::Long),
        (-1e30f32..1e30).prop_map(MetricValue::Float),
        (-1e300..1e300).prop_map(MetricValue::Double),
        any::<bool>().prop_map(MetricValue::Boolean),
        ".{0,20}".prop_map(MetricValue::Text),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(MetricValue::Bytes),
    ];
    let (name, number) = (prop::option::of(".{0,20}"), || prop::option::of(any::<u64>()));
    (name, number(), number(), any::<Option<u32>>(), any::<[Option<bool>; 3]>(), prop::option::of(value))
        .prop_map(|(name, alias, timestamp, datatype, [is_historical, is_transient, is_null], value)| {
            Metric { name, alias, timestamp, datatype, is_historical, is_transient, is_null, value }
        })
}

proptest! {
    #[test]
    fn a_batch(batch in batch(), more in 1usize..9) {
        let bytes = batch.encode();
        prop_assert_eq!(Batch::decode(&bytes), Ok(batch));
        for cut in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
            prop_assert!(Batch::decode(&bytes[..cut]).is_err(), "a piece of {cut} bytes");
        }
        prop_assert!(Batch::decode(&[bytes, vec![0; more]].concat()).is_err());
    }

    #[test]
    fn a_topic_of_the_uplink(site in site(), shard in any::<u16>()) {
        let shard = ShardId(shard);
        for (topic, way) in [(up_topic(&site, shard), "up"), (ack_topic(&site, shard), "ack")] {
            prop_assert!(check_name(&topic).is_ok());
            prop_assert_eq!(parse_topic(&topic), Some((way, site.clone(), shard)));
        }
    }

    #[test]
    fn a_sparkplug_payload(
        timestamp in any::<Option<u64>>(),
        seq in any::<Option<u64>>(),
        metrics in prop::collection::vec(metric(), 0..6),
    ) {
        let payload = Payload { timestamp, seq, metrics, ..Payload::default() };
        let bytes = payload.write();
        prop_assert_eq!(Payload::read(&bytes, payload.metrics.len()), Ok(payload.clone()));
        if let Some(fewer) = payload.metrics.len().checked_sub(1) {
            prop_assert!(Payload::read(&bytes, fewer).is_err());
        }
    }

    #[test]
    fn a_time_as_text(ms in TIME_RANGE) {
        let at = EpochMs(ms);
        prop_assert_eq!(EpochMs::parse(&at.to_string()), Ok(at));
        prop_assert_eq!(EpochMs::parse(&ms.to_string()), Ok(at));
    }

    #[test]
    fn a_window_holds_its_times(ms in TIME_RANGE, width_ms in 1u32..=86_400_000) {
        let start = EpochMs(ms).window_start(width_ms);
        prop_assert!(start.0 <= ms && ms < start.0 + i64::from(width_ms));
        prop_assert_eq!(start.window_start(width_ms), start);
    }

    #[test]
    fn a_filter_made_of_a_name_matches_it(levels in prop::collection::vec("[a-z]{0,3}", 1..6), holes in any::<u8>(), cut in 0usize..6) {
        let name = levels.join("/");
        prop_assume!(!name.is_empty());
        let hole = |(i, level): (usize, &String)| if holes >> i & 1 == 1 { "+".into() } else { level.clone() };
        let mut filter: Vec<String> = levels.iter().enumerate().map(hole).collect();
        if cut < filter.len() {
            filter.truncate(cut);
            filter.push("#".into());
        }
        let filter = filter.join("/");
        prop_assume!(!filter.is_empty());
        prop_assert!(Filter::new(&filter).unwrap().matches(&name), "{filter} {name}");
    }
}
