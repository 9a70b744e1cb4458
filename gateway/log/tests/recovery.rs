//! Any sequence of appends, syncs, trims, repairs, clean and sudden ends, with unsynced writes lost, kept or torn, and
//! with one place rotten between two starts: everything that was synced comes back, in order and nothing else, or its
//! group is reported as damaged, also at every later start; and the log remains usable. The same holds for a forged
//! log, except for its content.

use proptest::prelude::*;

#[path = "../../../fuzz/bodies/log.rs"]
mod log;
#[path = "../../../fuzz/bodies/source.rs"]
mod source;

/// Steps as the fuzzed body reads them, with every kind of step about equally often.
fn history() -> impl Strategy<Value = Vec<u8>> {
    let step = (0u8..12, prop::collection::vec(prop_oneof![any::<u8>(), 0u8..6], 0..24));
    prop::collection::vec(step, 1..60).prop_map(|steps| {
        steps.into_iter().flat_map(|(step, choices)| std::iter::once(step).chain(choices)).collect()
    })
}

proptest! {
    // Each case is a history of some sixty steps with as many openings.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_synced_comes_back_or_its_group_is_reported(mut steps in history()) {
        steps.insert(0, 2);
        log::run(&steps);
    }

    #[test]
    fn a_forged_log_neither_panics_nor_keeps_the_log_from_going_on(mut steps in history()) {
        steps.insert(0, 1);
        log::run(&steps);
    }

    #[test]
    fn snapshots_and_batches_are_whole_or_an_error(mut steps in history()) {
        steps.insert(0, 0);
        log::run(&steps);
    }
}
