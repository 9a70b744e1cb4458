//! The cloud: an untrusted broker, and a node that applies each batch once, by its shard and number.

use super::gateway::Common;
use super::invariants::complete::Complete;
use super::random::Random;
use selvedge_seal::{Opener, Sealer};
use selvedge_types::aggregate::Aggregate;
use selvedge_types::ids::ShardId;
use selvedge_types::uplink::{Batch, Down, LedgerId, LostBatch, StreamName, Up};
use std::collections::{BTreeMap, BTreeSet};

/// The only ledger of the simulation.
const LEDGER: LedgerId = LedgerId(1);

/// The most frames that a meddling broker keeps to repeat them.
const MAX_KEPT_ENTRIES: usize = 64;

pub struct Cloud {
    opener: Opener<Up>,
    sealer: Sealer<Down>,
    batches: BTreeMap<(ShardId, u64), Vec<u8>>,
    cursors: BTreeMap<ShardId, u64>,
    /// The contents of batches that the site may have lost; the simulation alone knows them.
    known: BTreeMap<(ShardId, u64), Vec<u8>>,
    /// Batches that the site has lost.
    pub holes: BTreeSet<(ShardId, u64)>,
    /// `None` where streams are retired.
    complete: Option<Complete>,
    /// The node's windows, by stream and start.
    pub windows: BTreeMap<(StreamName, i64), Aggregate>,
    pub away: u32,
    pub meddling: u32,
    /// The frames that the broker has kept in each direction.
    kept: [Vec<(ShardId, Vec<u8>)>; 2],
    pub refused: u64,
    pub applied: u64,
}

impl Cloud {
    pub fn new(common: &Common, retires: bool) -> Self {
        let mut opener = Opener::new();
        opener.add(&common.site, &common.secret);
        Self {
            opener,
            sealer: Sealer::new(&common.secret, &common.site).expect("a salt"),
            batches: BTreeMap::new(),
            cursors: BTreeMap::new(),
            known: BTreeMap::new(),
            holes: BTreeSet::new(),
            complete: (!retires).then(Complete::default),
            windows: BTreeMap::new(),
            away: 0,
            meddling: 0,
            kept: Default::default(),
            refused: 0,
            applied: 0,
        }
    }

    pub fn cursor(&self, shard: ShardId) -> u64 {
        self.cursors.get(&shard).copied().unwrap_or(0)
    }

    /// What a meddling broker makes of a frame on its way (0 up, 1 down), and whether the receiver must refuse it.
    pub fn meddle(
        &mut self,
        random: &mut Random,
        way: usize,
        shard: ShardId,
        frame: Vec<u8>,
    ) -> (ShardId, Vec<u8>, bool) {
        if self.meddling == 0 || frame.is_empty() {
            return (shard, frame, false);
        }
        if self.kept[way].len() < MAX_KEPT_ENTRIES {
            self.kept[way].push((shard, frame.clone()));
        }
        match random.below(7) {
            0 => {
                let mut altered = frame;
                let place = random.below(altered.len() as u64) as usize;
                altered[place] ^= 1 << random.below(8);
                (shard, altered, true)
            }
            1 => (ShardId(shard.0 ^ 1), frame, true),
            // An old frame as it was, which does no harm; or one of the other direction.
            2 => {
                let (shard, frame) =
                    self.kept[way][random.below(self.kept[way].len() as u64) as usize].clone();
                (shard, frame, false)
            }
            3 => match self.kept[1 - way].last() {
                Some((_, reflected)) => (shard, reflected.clone(), true),
                None => (shard, frame, false),
            },
            _ => (shard, frame, false),
        }
    }

    /// Takes in a frame. Returns the sealed confirmation.
    pub fn hear(&mut self, common: &Common, shard: ShardId, frame: &[u8], forged: bool) -> Option<Vec<u8>> {
        let (incarnation, seq, message) = match self.opener.open_of(&common.site, shard, frame) {
            Ok(opened) => opened,
            Err(_) => {
                assert!(forged, "an honest frame of {shard} was refused");
                self.refused += 1;
                return None;
            }
        };
        assert!(!forged, "a forged frame of {shard} was let in");
        match message {
            Up::Batch { first_kept, body, .. } => {
                super::invariants::uplink::kept(shard, first_kept, self.cursor(shard));
                self.apply(shard, seq, body);
            }
            Up::Lost { first_kept, lost, .. } => {
                super::invariants::uplink::kept(shard, first_kept, self.cursor(shard));
                self.lose(shard, seq, lost);
            }
            Up::Beacon { first_kept, .. } => {
                super::invariants::uplink::kept(shard, first_kept, self.cursor(shard));
            }
        }
        let cursor = self.cursor(shard);
        Some(
            self.sealer
                .seal_of(incarnation, shard, cursor, &Down::Confirm { ledger: LEDGER, cursor })
                .expect("it fits"),
        )
    }

    fn apply(&mut self, shard: ShardId, seq: u64, body: Vec<u8>) {
        if let Some(had) = self.batches.get(&(shard, seq)) {
            assert!(*had == body, "{shard} batch {seq} has changed");
            return;
        }
        self.applied += 1;
        if self.holes.remove(&(shard, seq)) {
            // It was under way for long, and its readings were already counted with the hole.
            assert!(self.known[&(shard, seq)] == body, "{shard} batch {seq} has changed");
            self.batches.insert((shard, seq), body);
            return;
        }
        self.reckon(shard, seq, &body);
        self.batches.insert((shard, seq), body);
        self.advance(shard);
    }

    /// Notes a batch that the site may lose from now on.
    pub fn remember(&mut self, shard: ShardId, seq: u64, body: Vec<u8>) {
        self.known.insert((shard, seq), body);
    }

    /// Notes that the site has lost a batch. The hole counts as what the batch held, so that the final check misses
    /// only what was lost without a hole.
    fn lose(&mut self, shard: ShardId, seq: u64, lost: LostBatch) {
        if seq != self.cursor(shard) + 1 {
            return;
        }
        let body = self.known.get(&(shard, seq)).cloned();
        let body = body.unwrap_or_else(|| panic!("{shard} batch {seq} is sent as lost and is not"));
        super::invariants::lost::as_it_was(shard, seq, &lost, &body);
        self.reckon(shard, seq, &body);
        self.holes.insert((shard, seq));
        self.advance(shard);
    }

    fn reckon(&mut self, shard: ShardId, seq: u64, body: &[u8]) {
        let batch = Batch::decode(body).unwrap_or_else(|e| panic!("{shard} batch {seq}: {e}"));
        for part in batch.parts {
            let name = batch.streams[part.stream as usize].clone();
            let a = part.aggregate;
            for time in [a.first.time, a.last.time] {
                assert_eq!(time.window_start(part.width_ms), part.start, "in the wrong window");
            }
            let window = self.windows.entry((name, part.start.0));
            window.and_modify(|w| w.merge(&a)).or_insert(a);
        }
    }

    fn advance(&mut self, shard: ShardId) {
        let cursor = self.cursors.entry(shard).or_default();
        loop {
            let next = (shard, *cursor + 1);
            let known = self.known.get(&next).filter(|_| self.holes.contains(&next));
            let Some(body) = self.batches.get(&next).or(known) else { return };
            *cursor += 1;
            if let Some(complete) = &mut self.complete {
                let batch = Batch::decode(body).expect("it was decoded before");
                complete.check(shard, *cursor, &batch);
            }
        }
    }
}
