//! Contents of batches that this replica lacks: it asks the other replicas for them, and a content that all have
//! lost is given up.
//!
//! When the uplink of a leader lacks a content, the replica asks all others in one round. Each answers with the
//! content, that it can't say, or that it has lost it. The leader proposes the batch as lost ([`ShardEvent::BatchLost`])
//! only if its own store has lost the content and every other member answers the same in that round. A member that
//! is silent or unsure makes the uplink wait and ask again, because it may be the one that has the content.
//!
//! Witnesses have no contents, and are not asked.
//!
//! A round lasts until all have answered, or until the content is asked for again. A batch that is given up while a
//! member could still rebuild its content (by a restart, from a log that no snapshot has replaced yet) stays lost:
//! nothing would restart that member, and the site stops taking readings when its outbox is full.
//!
//! Invariant: a batch is proposed as lost only if in one round every full member has said that it lost the content.
//! Limits: at most [`MAX_LOADING_ENTRIES`] contents are sought at a time.

use super::{MAX_LOADING_ENTRIES, Replica};
use crate::peer::{BatchAnswer, TransferMessage};
use crate::shard::{Now, ShardEvent};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeSet;

/// A content that the other replicas were asked for, in one round.
#[derive(Debug)]
pub(super) struct Sought {
    /// The replicas that have not answered.
    silent: BTreeSet<GatewayId>,
    /// How many replicas have answered that they have lost it.
    lost: usize,
    /// How many replicas were asked.
    asked: usize,
    /// Whether this replica's own store has lost it.
    gone_here: bool,
}

impl Sought {
    fn is_lost_everywhere(&self) -> bool {
        if canary::makes(Canary::LostByMajority) {
            return self.gone_here && self.lost + 1 > self.asked.div_ceil(2);
        }
        self.gone_here && self.lost == self.asked
    }
}

impl Replica {
    /// Asks the other replicas, in a new round, for the content of a kept batch that this replica lacks. `gone`:
    /// this replica's store has lost it.
    pub(super) fn ask_peers(&mut self, now: Now, seq: u64, gone: bool) {
        let witnesses = &self.core.configuration().witnesses;
        let members = self.core.consensus().config().members.iter().copied();
        let others = members.filter(|m| *m != self.me && !witnesses.contains(m));
        let silent: BTreeSet<GatewayId> = others.collect();
        let gone_here = gone || self.sought.get(&seq).is_some_and(|sought| sought.gone_here);
        if self.sought.len() >= MAX_LOADING_ENTRIES {
            self.sought.pop_first(); // asked for anew when it is wanted again
        }
        for to in &silent {
            self.say(*to, TransferMessage::FetchBatch { seq });
        }
        let asked = silent.len();
        self.sought.insert(seq, Sought { silent, lost: 0, asked, gone_here });
        self.judge_sought(now, seq);
    }

    /// Takes another replica's answer about a content that this replica lacks.
    pub(super) fn found(&mut self, now: Now, from: GatewayId, seq: u64, answer: BatchAnswer) {
        let record = self.core.machine().batch_record(seq);
        match answer {
            BatchAnswer::Here(body) if record.is_some_and(|record| record.matches(&body)) => {
                for scan in self.scans.values_mut().filter_map(|s| s.scan.as_mut()) {
                    scan.look_at(seq, &body);
                }
                self.mending |= self.sought.get(&seq).is_some_and(|sought| sought.gone_here);
                self.put(seq, body);
            }
            answer => {
                let Some(sought) = self.sought.get_mut(&seq) else { return };
                if sought.silent.remove(&from) && answer == BatchAnswer::Lost {
                    sought.lost += 1;
                }
                self.judge_sought(now, seq);
            }
        }
        self.finish_scans(now);
    }

    /// Ends a round in which all have answered and none has the content; reports the batch as lost if all have lost
    /// it.
    fn judge_sought(&mut self, now: Now, seq: u64) {
        let Some(sought) = self.sought.get(&seq) else { return };
        let (over, lost) = (sought.silent.is_empty(), sought.is_lost_everywhere());
        if lost {
            self.core.step(now, ShardEvent::BatchLost { seq });
        }
        if over {
            self.sought.remove(&seq);
            self.scans.values_mut().filter_map(|s| s.scan.as_mut()).for_each(|scan| scan.give_up(seq));
        }
    }
}
