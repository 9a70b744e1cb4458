//! The world's part in the links between gateways: delivers what arrives, lets the links run when something is due, and
//! jumps over long times in which only heartbeats would be exchanged.

use super::{Packet, World};
use crate::gateway::{Live, Out, Place};
use crate::links::{Around, Brought};
use crate::wire::Machine;
use selvedge_fabric::peer::{MAX_INTEREST_FILTERS, PeerMessage, RoutedPublish, TableQuestion};
use selvedge_types::ids::GatewayId;

/// A quiet time shorter than this is not jumped over.
const JUMP_MS: u64 = 2_000;
/// How long before the next event a jump ends: heartbeats are exchanged a few times, so that clocks are compared again.
const LAND_MS: u64 = 600;
/// How often the actors compare clocks and disks.
const LOOK_MS: u64 = 200;
/// The size of a routed publish of the noise, in bytes.
const NOISE_BYTES: u64 = 64 * 1024;
/// Longer than the size to which a frame is filled, in bytes.
const LARGE_BYTES: usize = 512 * 1024;

impl World {
    /// When the links want to run next.
    pub(super) fn links_due(&self) -> u64 {
        let of = |place: &Place| Some(place.live.as_ref()?.links.due.max(place.frozen_until));
        let due = self.places.values().filter_map(of).min().unwrap_or(u64::MAX);
        due.min(self.wires.next_at().unwrap_or(u64::MAX))
    }

    /// Delivers what has arrived, and lets the links run for which something is due.
    pub(super) fn links_turn(&mut self) {
        let (now, places) = (self.now, &self.places);
        let machine = |id| match places.get(&id) {
            None | Some(Place { live: None, off: true, .. }) => Machine::Off,
            Some(Place { live: None, .. }) => Machine::On(0),
            Some(Place { start, .. }) => Machine::On(*start),
        };
        let touched = self.wires.arrive(&mut self.random, now, machine);
        let is_due = |id: &GatewayId, place: &Place, live: &Live| {
            touched.contains(id) || live.links.due <= now || place.stood_since.is_some()
        };
        let runs = |(id, place): (&GatewayId, &Place)| {
            let live = place.live.as_ref().filter(|_| place.frozen_until <= now)?;
            is_due(id, place, live).then_some(*id)
        };
        for id in self.places.iter().filter_map(runs).collect::<Vec<_>>() {
            self.tend(id);
        }
    }

    fn tend(&mut self, id: GatewayId) {
        let now = self.now;
        let mut brought = Vec::new();
        let Some(place) = self.places.get_mut(&id) else { return };
        let own = place.clock.read(now);
        let (disk_ms, stood_since) = (self.net.weather.disk_ms + place.slow_ms, place.stood_since.take());
        if let Some(live) = &mut place.live {
            if live.links.is_renaming() {
                self.calm_since = now;
            }
            if let Some(since) = stood_since {
                live.links.stalled(since, now);
            }
            let (wires, random, known) = (&mut self.wires, &mut self.random, &mut place.known);
            live.links.tend(&mut Around { now, wires, random, known, disk_ms }, &mut brought);
        }
        for what in brought {
            self.bring(id, what);
        }
        let Some(place) = self.places.get_mut(&id) else { return };
        let clock = place.now(now);
        if let Some(live) = place.live.as_mut().filter(|live| live.peers_look_at <= now) {
            live.peers_look_at = (now / LOOK_MS + 1) * LOOK_MS;
            let full = !live.has_room();
            note_full(live, id, full);
            if live.look_at_clocks(clock, own) | live.look_at_room(clock) {
                place.due = 0;
            }
            if live.look_as_steward(clock) {
                place.due = 0;
            }
        }
        self.flush(id);
    }

    fn bring(&mut self, id: GatewayId, what: Brought) {
        let now = self.now;
        let Some(place) = self.places.get_mut(&id) else { return };
        let clock = place.now(now);
        let Some(live) = &mut place.live else { return };
        match what {
            Brought::News(news) => {
                live.peers(clock, &news);
                place.due = 0;
                self.tally.lost += news.lost.len() as u64;
                self.trace(|| format!("{id} reaches {:?}, restarted {:?}", news.up, news.restarted));
            }
            Brought::Connected(peer) => {
                live.agreement.connected(peer);
                self.tally.connections += 1;
            }
            Brought::Frame { from, clocks, full, messages } => {
                live.agreement.heard(from, now, clocks);
                note_full(live, from, full);
                if messages.is_empty() {
                    return;
                }
                let (mut out, start) = (Out::default(), place.start);
                for message in messages {
                    if self.plan.rough {
                        let packet = Packet::Peer { from, to: id, start, message };
                        self.net.send(&mut self.random, now, packet);
                    } else {
                        live.hear(clock, from, message, &mut out);
                        place.due = 0;
                    }
                }
                self.perform(id, out);
            }
            Brought::Refused { who, start, reason } => {
                // A gateway that was removed may live, and one that was admitted may come before the others know it.
                let outside = ["was removed", "was just removed", "knows no gateway"];
                let may = self.plan.growth && outside.iter().any(|why| reason.contains(why));
                let place = self.places.get(&who);
                let lives = place.is_some_and(|place| place.live.is_some() && place.start == start);
                assert!(!lives || may, "{who} lives and is refused: {reason}");
            }
        }
    }

    /// Lets the links of a gateway write what they can.
    pub(super) fn flush(&mut self, id: GatewayId) {
        let now = self.now;
        let Some(place) = self.places.get_mut(&id) else { return };
        let own = place.clock.read(now);
        let Some(live) = &mut place.live else { return };
        let full = !live.has_room();
        let (wires, random, known) = (&mut self.wires, &mut self.random, &mut place.known);
        let mut around = Around { now, wires, random, known, disk_ms: 1 };
        let Live { links, agreement, .. } = live;
        self.tally.displaced += links.write(&mut around, full, |peer| agreement.note(peer, now, own));
    }

    /// Goes to shortly before the next event, if until then only heartbeats are exchanged on links that are all up.
    pub(super) fn jump(&mut self, next: u64) {
        if next < self.now + JUMP_MS || !self.wires.is_quiet() {
            return;
        }
        let is_quiet = |place: &Place| {
            let live = place.live.as_ref().filter(|_| place.frozen_until <= self.now);
            live.is_some_and(|live| live.links.is_quiet() && live.agreement.changes_at().is_none())
        };
        if !self.places.values().all(is_quiet) {
            return;
        }
        self.now = next - LAND_MS;
        for live in self.places.values_mut().filter_map(|place| place.live.as_mut()) {
            live.links.jump(self.now);
            live.peers_look_at = self.now;
        }
        self.compare_clocks();
    }

    /// Exchanges what the last heartbeats before the end of a jump would have said about clocks.
    fn compare_clocks(&mut self) {
        let now = self.now;
        let ids: Vec<_> = self.places.keys().copied().collect();
        let pairs = || ids.iter().flat_map(|from| ids.iter().map(move |to| (*from, *to)));
        for (from, to) in pairs().chain(pairs()).filter(|(from, to)| from != to) {
            let place = &self.places[&from];
            let Some(note) = place.live.as_ref().map(|l| l.agreement.note(to, now, place.clock.read(now)))
            else {
                continue;
            };
            if let Some(live) = &mut self.place(to).live {
                live.agreement.heard(from, now, note);
            }
        }
    }

    /// Messages between gateways that subscribers cause.
    pub(super) fn noise(&mut self) {
        if !self.plan.noisy || self.places.len() < 2 || !self.random.chance(400) {
            return;
        }
        let (from, to) = (self.pick(), self.pick());
        let Some(live) = self.places.get_mut(&from).and_then(|place| place.live.as_mut()) else { return };
        if from == to {
            return;
        }
        let random = &mut self.random;
        match random.below(4) {
            0 => {
                for n in 0..random.pick(&[1, 20, MAX_INTEREST_FILTERS]) {
                    let filters = vec![format!("noise/{n}"), "d/#".to_string()].into();
                    live.links.send(to, PeerMessage::Interest { filters });
                }
            }
            1 => {
                for id in 0..random.below(200) {
                    live.links.send(to, PeerMessage::AskTable { id, question: TableQuestion::Unmapped });
                }
            }
            2 => {
                let payload = vec![b'x'; LARGE_BYTES];
                let topic = "noise/large".to_string();
                let publishes = vec![RoutedPublish { topic, payload, qos: 0 }];
                live.links.send(to, PeerMessage::Route { publisher: 0, publishes });
            }
            _ => {
                for n in 0..random.below(100) {
                    let payload = vec![b'x'; random.below(NOISE_BYTES) as usize];
                    let publishes = vec![RoutedPublish { topic: format!("noise/{n}"), payload, qos: 0 }];
                    live.links.send(to, PeerMessage::Route { publisher: 0, publishes });
                }
            }
        }
        live.links.due = 0;
    }
}

fn note_full(live: &mut Live, who: GatewayId, full: bool) {
    match full {
        true => _ = live.full.insert(who),
        false => _ = live.full.remove(&who),
    }
}
