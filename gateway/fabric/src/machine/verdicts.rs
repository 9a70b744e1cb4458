//! The latest verdicts on each gateway's batches, as far as they say more than that everything was done.
//!
//! A gateway whose answer was lost asks again under the same number. If the shard had forgotten a refusal by
//! then, the gateway would acknowledge the publish as kept. So verdicts are part of the state and of every
//! snapshot.
//!
//! Limit: for each gateway, the verdicts on its last [`MAX_INFLIGHT_BATCHES`] numbers; earlier batches have
//! all been answered.

use super::command::Origin;
use super::outcomes::{BatchVerdict, ItemOutcome};
use bincode::{Decode, Encode};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

/// The most batches of one gateway that may be unanswered in a shard.
pub const MAX_INFLIGHT_BATCHES: usize = 4;

/// A verdict, with the slot that gave it.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct KeptVerdict {
    n: u64,
    slot: u64,
    verdict: BatchVerdict,
}

/// Verdicts for the current start of each gateway.
#[derive(Debug, Default)]
pub struct Verdicts(BTreeMap<GatewayId, Vec<KeptVerdict>>);

impl Verdicts {
    /// Forgets a gateway's verdicts: it has started anew, and nobody waits for the answers to its previous
    /// start.
    pub fn restarted(&mut self, gateway: GatewayId) {
        self.0.remove(&gateway);
    }

    /// Records the verdict on batch `n`, unless it says only that everything was done.
    pub fn note(&mut self, origin: Origin, n: u64, slot: u64, verdict: &BatchVerdict) {
        if let Some(kept) = self.0.get_mut(&origin.gateway) {
            kept.retain(|k| k.n + MAX_INFLIGHT_BATCHES as u64 > n);
        }
        let plain = |o: &ItemOutcome| match o {
            ItemOutcome::Done | ItemOutcome::Duplicate => true,
            ItemOutcome::Judged(judged) => judged.set_aside.is_empty(),
            ItemOutcome::Stale
            | ItemOutcome::Refused(_)
            | ItemOutcome::Connected(_)
            | ItemOutcome::Subscribed { .. }
            | ItemOutcome::Retired { .. }
            | ItemOutcome::WillDue(_)
            | ItemOutcome::Directory(_) => false,
        };
        let told = match verdict {
            BatchVerdict::Applied(outcomes) => !outcomes.others().iter().all(plain),
            BatchVerdict::Malformed => true,
            BatchVerdict::AlreadyApplied | BatchVerdict::Gap { .. } | BatchVerdict::OldStart => false,
        };
        if told {
            self.0.entry(origin.gateway).or_default().push(KeptVerdict { n, slot, verdict: verdict.clone() });
        }
    }

    /// The slot and the verdict of batch `n` of the gateway's current start, if it was recorded.
    pub fn get(&self, gateway: GatewayId, n: u64) -> Option<(u64, &BatchVerdict)> {
        let kept = self.0.get(&gateway)?.iter().find(|k| k.n == n)?;
        Some((kept.slot, &kept.verdict))
    }

    pub fn image(&self) -> Vec<(GatewayId, &Vec<KeptVerdict>)> {
        self.0.iter().filter(|(_, kept)| !kept.is_empty()).map(|(g, kept)| (*g, kept)).collect()
    }

    pub fn from_image(image: Vec<(GatewayId, Vec<KeptVerdict>)>) -> Self {
        Self(image.into_iter().collect())
    }
}
