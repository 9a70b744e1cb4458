//! Publishes, from decoding to the answer and the routing, and the releases of QoS 2.

use super::names::Meaning;
use super::pending::Pending;
use super::{IGNORED, MAX_QOS0_PENDING, Session, SessionContext, SessionEffects, TOUCH};
use crate::forward::{Forwardable, SettledItem, Ticket};
use crate::machine::{Item, ItemOutcome, MAX_PAYLOAD_BYTES, Quarantined, Source, publish_hash};
use crate::not_counted::{NotCounted, Sent};
use bytes::Bytes;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::ShardId;
use selvedge_types::mqtt::{Ack, AckCode, Answer, CloseReason, Inbound, Oversize, Publish, QoS};
use selvedge_types::time::EpochMs;
use std::num::NonZeroU16;

impl Session {
    pub(super) fn publish(&mut self, site: SessionContext<'_>, publish: Publish, out: &mut SessionEffects) {
        let token = publish.token;
        if publish.qos == QoS::AtMostOnce && self.qos0 >= MAX_QOS0_PENDING {
            out.dropped += 1;
            return;
        }
        let (parts, not, skipped) = match self.names.decode(site, &publish, out) {
            Meaning::Unmapped => return self.unmapped(site, publish, out),
            Meaning::Parts { parts, not, skipped } => (parts, not, skipped),
        };
        if parts.is_empty() {
            out.skipped.extend(skipped);
            self.qos0 += usize::from(publish.qos == QoS::AtMostOnce);
            self.pending
                .push(token, Pending { not, ..Pending::of(Some(publish), site.now, 0, Sent::Nothing) });
            return self.concluded(site, token, out);
        }
        let packet_id = publish.packet_id.filter(|_| self.persistent());
        let source = packet_id.map(|packet_id| self.source_of(&publish, packet_id));
        if source.is_some() && publish.qos == QoS::ExactlyOnce {
            let fresh: Vec<u16> =
                parts.iter().map(|(s, _)| s.0).filter(|s| !self.touched.contains(s)).collect();
            if canary::makes(Canary::TouchedUnnoted) {
                self.touched.extend(fresh);
            } else if !fresh.is_empty() {
                for shard in fresh {
                    self.touched.insert(shard);
                    self.touching += 1;
                    let (client, epoch) = (self.client.clone(), self.epoch);
                    self.submit(site, TOUCH, Item::Touch { client, epoch, shard }, out);
                }
                self.held.push_front(Inbound::Publish(publish));
                return;
            }
        }
        let qos0 = publish.qos == QoS::AtMostOnce;
        self.qos0 += usize::from(qos0);
        let open = parts.len();
        out.skipped.extend(skipped);
        let sent = Sent::of(&parts);
        self.pending.push(token, Pending { not, ..Pending::of(Some(publish), site.now, open, sent) });
        let ticket = Ticket { connection: self.connection, token };
        out.submit
            .extend(parts.into_iter().map(|(shard, part)| (shard, ticket, part.with_source(source.clone()))));
    }

    /// Identifies a publish, so that a resend is recognised.
    fn source_of(&self, publish: &Publish, packet_id: NonZeroU16) -> Source {
        Source {
            client: self.client.clone(),
            instance: self.instance,
            epoch: self.epoch,
            packet_id: packet_id.get(),
            qos: u8::from(publish.qos),
            dup: publish.dup,
            hash: publish_hash(&publish.topic, &publish.payload),
        }
    }

    /// Handles a publish that is larger than a bound. It is answered and set aside, but not routed, because its
    /// payload was discarded.
    pub(super) fn oversize(
        &mut self,
        site: SessionContext<'_>,
        oversize: Oversize,
        out: &mut SessionEffects,
    ) {
        let Oversize { token, topic, payload_bytes, qos, dup, packet_id, why } = oversize;
        let not = NotCounted::discarded(&why.to_string(), payload_bytes);
        self.qos0 += usize::from(qos == QoS::AtMostOnce);
        let publish = Publish { token, topic, payload: Bytes::new(), qos, dup, retain: false, packet_id };
        let pending = Pending::of(Some(publish), site.now, 0, Sent::Nothing);
        self.pending.push(token, Pending { not: Some(not), ..pending });
        self.concluded(site, token, out);
    }

    pub(super) fn release(&mut self, token: u64, packet_id: u16, out: &mut SessionEffects) {
        if !self.persistent() || self.touched.is_empty() {
            out.answers.push(Answer::Ack(Ack::kept(token)));
            return;
        }
        let told = if canary::makes(Canary::ReleasedInPart) { 1 } else { self.touched.len() };
        let connection = self.connection;
        self.pending.push(token, Pending::of(None, EpochMs(0), told, Sent::Nothing));
        for shard in self.touched.iter().take(told) {
            let source = Source {
                client: self.client.clone(),
                instance: self.instance,
                epoch: self.epoch,
                packet_id,
                qos: 2,
                dup: false,
                hash: 0,
            };
            let item = Forwardable::Item(Item::Release(source));
            out.submit.push((ShardId(*shard), Ticket { connection, token }, item));
        }
    }

    /// Handles a publish whose topic maps to no stream: it is answered and routed, and touches no shard.
    fn unmapped(&mut self, site: SessionContext<'_>, publish: Publish, out: &mut SessionEffects) {
        let listened = (site.listens)(&publish.topic);
        if publish.qos != QoS::AtMostOnce {
            out.acked += 1;
            let code = if listened { AckCode::Kept } else { AckCode::NoSubscribers };
            out.answers.push(Answer::Ack(Ack { code, ..Ack::kept(publish.token) }));
        }
        if !listened {
            out.unmapped.push((publish.topic.to_string(), publish.payload.len()));
        }
        out.route.push(publish);
    }

    pub(super) fn part_settled(
        &mut self,
        site: SessionContext<'_>,
        token: u64,
        settled: SettledItem,
        out: &mut SessionEffects,
    ) {
        let Some(pending) = self.pending.get_mut(token) else { return };
        pending.open = pending.open.saturating_sub(1);
        match settled.outcome {
            ItemOutcome::Judged(judged) => {
                out.fates.counted += u64::from(judged.counted);
                out.fates.recognised += u64::from(judged.recognised);
                out.fates.set_aside += judged.set_aside.len() as u64;
                pending.kept |= judged.is_kept();
                if judged.is_kept() && settled.slot > 0 {
                    pending.receipt = Some((settled.shard, settled.slot));
                }
                if !judged.set_aside.is_empty() {
                    let not = pending.not.get_or_insert_default();
                    not.set_aside(settled.shard, &pending.sent, &judged.set_aside);
                    self.names.forget();
                }
            }
            // The publish is not even in the quarantine: the client gets no answer, and sends it again.
            ItemOutcome::Refused(_) if pending.quarantining => {
                out.close = Some(CloseReason::Busy);
                self.pending.remove(token);
                return self.route_late(out);
            }
            ItemOutcome::Refused(why) => {
                pending.not.get_or_insert_default().refused(settled.shard, &why);
                self.names.forget();
            }
            ItemOutcome::Duplicate => {
                pending.kept = true;
                pending.not.get_or_insert_default().recognised(settled.shard);
            }
            _ => pending.kept = true,
        }
        if pending.open > 0 && !canary::makes(Canary::AcknowledgedInPart) {
            return;
        }
        let resent = pending.publish.as_ref().is_some_and(|publish| publish.dup);
        if pending.not.is_some() || resent {
            return self.concluded(site, token, out);
        }
        if let Some(done) = self.pending.remove(token) {
            self.answer(site, token, done, out);
        }
    }

    /// Concludes a publish whose parts are all settled, and that is not fully counted, or is a resend.
    fn concluded(&mut self, site: SessionContext<'_>, token: u64, out: &mut SessionEffects) {
        let resend = self.resend_counted(token);
        let Some(pending) = self.pending.get_mut(token) else { return };
        if let Some(source) = resend {
            (pending.quarantining, pending.open) = (true, 1);
            return self.submit(site, token, Item::ResendCounted(source), out);
        }
        if let (Some(publish), Some(not)) = (&pending.publish, &pending.not)
            && not.is_lasting()
            && !pending.quarantining
        {
            let item = quarantined((&self.client, self.epoch), pending.at, publish, not, &pending.sent);
            pending.quarantining = true;
            if self.v5 || publish.qos == QoS::AtMostOnce || canary::makes(Canary::AcknowledgedUnquarantined) {
                self.submit(site, IGNORED, item, out);
            } else {
                pending.open = 1;
                return self.submit(site, token, item, out);
            }
        }
        if let Some(done) = self.pending.remove(token) {
            self.answer(site, token, done, out);
        }
    }

    /// A resend that was judged only now and counted in full: the first time it may have gone into the quarantine.
    fn resend_counted(&self, token: u64) -> Option<Source> {
        let pending = self.pending.get(token)?;
        let publish = pending.publish.as_ref().filter(|publish| publish.dup && self.persistent())?;
        let all_counted = |not: &NotCounted| !not.is_lasting() && !not.is_recognised();
        let counted = pending.kept && pending.not.as_deref().is_none_or(all_counted);
        let packet_id = publish.packet_id.filter(|_| counted && !pending.quarantining)?;
        Some(self.source_of(publish, packet_id))
    }

    fn answer(&mut self, site: SessionContext<'_>, token: u64, done: Pending, out: &mut SessionEffects) {
        let Some(publish) = done.publish else {
            out.answers.push(Answer::Ack(Ack::kept(token)));
            return;
        };
        let is_whole = done.not.as_ref().is_none_or(|not| not.discarded_bytes().is_none());
        if publish.qos == QoS::AtMostOnce {
            self.qos0 -= 1;
        } else if let Some(not) = done.not.as_ref().filter(|not| self.v5 && not.is_lasting() && !done.kept) {
            out.refused += 1;
            out.answers.push(Answer::Ack(Ack::refused(token, not.code(), not.why())));
        } else {
            let mut ack = Ack::kept(token);
            if let Some((shard, slot)) = done.receipt.filter(|_| self.v5) {
                ack = ack.with_receipt(format!("{shard}/{slot}"));
            }
            if let Some(not) = done.not.filter(|not| self.v5 && !not.is_silent()) {
                ack = ack.saying(not.why());
            }
            out.acked += 1;
            out.answers.push(Answer::Ack(ack));
        }
        if is_whole {
            self.route(site, token, publish, out);
        }
        self.route_late(out);
    }

    /// Routes a settled publish, unless an earlier one to its topic is not settled.
    fn route(&mut self, site: SessionContext<'_>, token: u64, publish: Publish, out: &mut SessionEffects) {
        // Without subscribers the order doesn't matter, and is not looked up.
        let matters = self.pending.has_before(token) && (site.listens)(&publish.topic);
        match matters && self.pending.is_behind(token, &publish.topic) {
            true => {
                let at = self.late.partition_point(|(earlier, _)| *earlier < token);
                self.late.insert(at, (token, publish));
            }
            false => out.route.push(publish),
        }
    }

    /// Routes publishes that waited for one that is no longer awaited.
    pub(super) fn route_late(&mut self, out: &mut SessionEffects) {
        let pending = &self.pending;
        let ready = self.late.extract_if(.., |(token, publish)| !pending.is_behind(*token, &publish.topic));
        out.route.extend(ready.map(|(_, publish)| publish));
    }
}

/// A publish for the quarantine, from a session at this epoch.
pub(crate) fn quarantined(
    (client, epoch): (&str, u64),
    at: EpochMs,
    publish: &Publish,
    not: &NotCounted,
    sent: &Sent,
) -> Item {
    let (counted, recognised) = not.counted(sent);
    let publish = Quarantined {
        client: client.to_string(),
        topic: publish.topic.to_string(),
        payload: if publish.payload.len() > MAX_PAYLOAD_BYTES {
            Vec::new()
        } else {
            publish.payload.to_vec()
        },
        payload_bytes: not.discarded_bytes().unwrap_or(publish.payload.len() as u64),
        qos: u8::from(publish.qos),
        packet_id: publish.packet_id.map_or(0, NonZeroU16::get),
        dup: publish.dup,
        at,
        why: not.why(),
        counted,
        recognised,
        far_behind: not.far_behind(),
    };
    Item::Quarantine { epoch, publish: Box::new(publish) }
}
