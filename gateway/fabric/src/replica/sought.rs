//! Contents of batches that are not to be had here: the other replicas are asked for them, and what all have lost is given up.
//!
//! The uplink of a leader that lacks a content has all others asked in one round. Each answers that it has it, that it can't say, or that
//! it has lost it. Only when the leader's own store has lost it and each other member answers the same in that round is it
//! proposed that the batch is lost ([`Event::BatchLost`]). A member that is silent or unsure makes the uplink wait, and ask again: it may be the
//! one that has it.
//!
//! A round lasts until all have answered, or the content is asked for anew. A batch that is given up while a member could still make its
//! content again (by a restart, from a log that no snapshot has replaced yet) stays lost: nothing would restart that member, and the
//! site's intake ends when its outbox is full.
//!
//! Invariant: a batch is proposed as lost only if all that its members said of it in one round is that they have lost it.
//! Limits: at most [`MAX_LOADING_ENTRIES`] contents are sought at a time.

use super::{MAX_LOADING_ENTRIES, Replica};
use crate::peer::{BatchAnswer, TransferMessage};
use crate::shard::{Event, Now};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeSet;

/// A content that the other replicas were asked for, in one round.
#[derive(Debug)]
pub(super) struct Sought {
    /// Who has not answered.
    silent: BTreeSet<GatewayId>,
    /// How many have answered that they have lost it.
    lost: usize,
    /// How many were asked.
    asked: usize,
    /// This replica's own store has lost it.
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
    /// The content of a batch that is kept is not to be had here: a round of questions to the other replicas begins. `gone`: the
    /// store has lost it.
    pub(super) fn ask_peers(&mut self, now: Now, seq: u64, gone: bool) {
        let others = self.core.consensus().config().members.iter().copied().filter(|m| *m != self.me);
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

    /// Another replica answers about a content that is not to be had here.
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

    /// Ends a round in which all have answered and nobody has the content; says that the batch is lost if all have said so.
    fn judge_sought(&mut self, now: Now, seq: u64) {
        let Some(sought) = self.sought.get(&seq) else { return };
        let (over, lost) = (sought.silent.is_empty(), sought.is_lost_everywhere());
        if lost {
            self.core.step(now, Event::BatchLost { seq });
        }
        if over {
            self.sought.remove(&seq);
            self.scans.values_mut().filter_map(|s| s.scan.as_mut()).for_each(|scan| scan.give_up(seq));
        }
    }
}
