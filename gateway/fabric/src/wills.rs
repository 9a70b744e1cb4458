//! Publishing of wills: the messages that connections leave behind, published on their behalf.
//!
//! The shard of the client id decides when a will is due and which gateway publishes it
//! (`machine/sessions/wills.rs`). The will's readings go to the shards of their devices like those of any publish.
//! When these shards have settled them, the gateway reports the will as done to the client's shard. That shard's
//! answer decides whether this gateway delivers the will to subscribers, so that only one gateway does. Then the
//! gateway accepts the connection that waited for the will.
//!
//! Invariant: a client's new connection is accepted only after the will of the previous one was settled in every
//! shard that it touches, and delivered to subscribers if this gateway had to deliver it.
//! Invariant: a will counts once, and reaches subscribers at most once, however many gateways publish it.
//! Limit: the bounds of the shards' wills bound how many are under way.

use super::decode::Few;
use super::forward::{Forwardable, SettledItem, Ticket};
use super::machine::{DueWill, Item, ItemOutcome, Source, publish_hash};
use super::not_counted::{NotCounted, Sent};
use super::session::{Meaning, RecentNames, SessionContext, SessionEffects, quarantined};
use selvedge_types::mqtt::{Publish, QoS};
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;

/// The connection that the tickets of wills carry; the listener counts its own connections from 1.
pub const WILLS: u64 = 0;

#[derive(Debug)]
struct Publishing {
    client: String,
    epoch: u64,
    publish: Publish,
    /// Parts that are not settled. At 0, the client's shard is asked which gateway delivers the will.
    open: usize,
    sent: Sent,
    not: Option<Box<NotCounted>>,
    /// When the will was decoded.
    at: EpochMs,
    /// The latest connection that waits for the will.
    waits: Option<u64>,
}

/// A connection that has waited for a will.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waited {
    pub connection: u64,
    /// The connection must not be accepted: another one has taken its session meanwhile, and its own will is void.
    pub replaced: bool,
}

/// The wills that one gateway process is publishing.
#[derive(Debug, Default)]
pub struct WillPublisher {
    last: u64,
    open: BTreeMap<u64, Publishing>,
}

impl WillPublisher {
    /// Publishes a will, which a connection may wait for. A will that is already under way is not begun again.
    pub fn publish(
        &mut self,
        site: SessionContext<'_>,
        due: DueWill,
        waits: Option<u64>,
        out: &mut SessionEffects,
    ) {
        let same = |p: &&mut Publishing| p.client == due.client && p.epoch == due.epoch;
        if let Some(publishing) = self.open.values_mut().find(same) {
            publishing.waits = waits.or(publishing.waits);
            return;
        }
        self.last += 1;
        let qos = match due.will.qos {
            0 => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        };
        let publish = Publish {
            token: self.last,
            topic: due.will.topic.into(),
            payload: due.will.payload.into(),
            qos,
            dup: false,
            retain: false,
            packet_id: None,
        };
        let source = Source {
            client: due.client.clone(),
            instance: due.instance,
            epoch: due.epoch,
            packet_id: 0,
            qos: 1,
            dup: true,
            // A session that continues may leave the same will many times: the epoch tells them apart.
            hash: publish_hash(&publish.topic, &publish.payload)
                .wrapping_add(due.epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        };
        let (parts, not) = match RecentNames::of(&due.client).decode(site, &publish, out) {
            Meaning::Parts { parts, not, skipped } => {
                out.skipped.extend(skipped);
                (parts, not)
            }
            Meaning::Unmapped => (Few::new(), None),
        };
        let (client, epoch, open, sent) = (due.client, due.epoch, parts.len(), Sent::of(&parts));
        let ticket = Ticket { connection: WILLS, token: self.last };
        out.submit.extend(
            parts.into_iter().map(|(shard, part)| (shard, ticket, part.with_source(Some(source.clone())))),
        );
        self.open
            .insert(self.last, Publishing { client, epoch, publish, open, sent, not, at: site.now, waits });
        if open == 0 {
            self.conclude(site, self.last, out);
        }
    }

    /// Takes in the outcome of an item. Returns the connection that waited, if the will is done.
    pub fn settled(
        &mut self,
        site: SessionContext<'_>,
        settled: SettledItem,
        out: &mut SessionEffects,
    ) -> Option<Waited> {
        let token = settled.ticket.token;
        let publishing = self.open.get_mut(&token)?;
        if publishing.open > 0 {
            match settled.outcome {
                ItemOutcome::Judged(judged) if !judged.set_aside.is_empty() => {
                    let not = publishing.not.get_or_insert_default();
                    not.set_aside(settled.shard, &publishing.sent, &judged.set_aside);
                }
                ItemOutcome::Refused(why) => {
                    publishing.not.get_or_insert_default().refused(settled.shard, &why);
                }
                _ => {}
            }
            publishing.open -= 1;
            if publishing.open == 0 {
                self.conclude(site, token, out);
            }
            return None;
        }
        let done = self.open.remove(&token)?;
        if settled.outcome == ItemOutcome::Done {
            out.route.push(done.publish);
        }
        let replaced = settled.outcome == ItemOutcome::Stale;
        done.waits.map(|connection| Waited { connection, replaced })
    }

    /// How many wills are under way.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no will is under way.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// All parts are settled: what was not counted goes into the quarantine, and the client's shard is asked which
    /// gateway delivers the will.
    fn conclude(&self, site: SessionContext<'_>, token: u64, out: &mut SessionEffects) {
        let Some(p) = self.open.get(&token) else { return };
        let shard = site.ring.shard_of(&p.client);
        if let Some(not) = p.not.as_ref().filter(|not| not.is_lasting()) {
            // With epoch 0, because the client may be back.
            let item = quarantined((&p.client, 0), p.at, &p.publish, not, &p.sent);
            out.submit.push((shard, Ticket { connection: WILLS, token: 0 }, Forwardable::Item(item)));
        }
        let item = Item::WillDone { client: p.client.clone(), epoch: p.epoch, at: site.origin };
        out.submit.push((shard, Ticket { connection: WILLS, token }, Forwardable::Item(item)));
    }
}
