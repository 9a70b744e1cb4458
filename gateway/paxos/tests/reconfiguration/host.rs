//! A gateway: its process, its disk, and its host, which runs one replica of the newest configuration that it knows.

use crate::checks::Place;
use selvedge_paxos::{Ballot, Consensus, Message, Record, Recovered, Slot, Value};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, VecDeque};

/// What gateways send each other.
#[derive(Debug, Clone)]
pub enum Wire {
    Paxos(u32, Message),
    /// The sender has begun this configuration, and may want to know whether the receiver has.
    Superseded {
        configuration: u32,
        asks: bool,
    },
    /// The sender runs no newer configuration than this one, has applied so much, and needs help; without a replica
    /// only a snapshot helps.
    Behind {
        applied: Slot,
        snapshot: bool,
    },
    /// Chosen values from this slot on; they may reach into later configurations.
    Values {
        from: Slot,
        values: Vec<Value>,
    },
    /// The sender's state.
    Snapshot {
        slot: Slot,
    },
}

/// One write on its way to the disk.
pub struct Write {
    pub due: u64,
    pub number: u64,
    pub configuration: u32,
    pub token: u64,
    pub records: Vec<Record>,
}

pub struct Host {
    pub id: GatewayId,
    pub life: u64,
    pub back_at: u64,
    pub runs: bool,
    /// The newest configuration known here, and its replica if this gateway takes part.
    pub place: Place,
    pub group: Option<Consensus>,
    /// The replica of the configuration before, which may still have to tell others that it stopped.
    pub former: Option<(u32, Consensus)>,
    /// The gateways that have said that they have begun this configuration; when to ask its other members.
    pub ask_at: u64,
    pub moved_on: Vec<GatewayId>,
    /// The replica has stopped; the next configuration is made at this time.
    pub next_at: Option<u64>,
    pub applied: Slot,
    /// Durable: what the log holds, by configuration; the slot through which a snapshot reaches; the oldest snapshot,
    /// which is found if all later ones are lost; whether records were lost.
    pub disk: Vec<(u32, Record)>,
    pub snapshot: Slot,
    pub first_snapshot: Slot,
    pub damaged: bool,
    pub writes: u64,
    pub writing: VecDeque<Write>,
    /// What leaves when the write of this number is on disk.
    pub waiting: VecDeque<(u64, GatewayId, Wire)>,
    /// The number of the write after which the mark of the damage goes.
    pub healing: Option<u64>,
    pub seen_lives: Vec<Option<u64>>,
    pub up: Vec<GatewayId>,
    pub look_at: u64,
    pub learners: Vec<GatewayId>,
    pub proposed: Vec<(u32, Ballot, Slot, Value)>,
    /// By configuration and number: what was chosen when it was asked for.
    pub reads: BTreeMap<(u32, u64), Slot>,
}

impl Host {
    pub fn new(id: GatewayId, place: Place, gateways: usize) -> Self {
        Self {
            id,
            life: 0,
            back_at: 0,
            runs: false,
            place,
            group: None,
            former: None,
            ask_at: 0,
            moved_on: Vec::new(),
            next_at: None,
            applied: 0,
            disk: Vec::new(),
            snapshot: 0,
            first_snapshot: 0,
            damaged: false,
            writes: 0,
            writing: VecDeque::new(),
            waiting: VecDeque::new(),
            healing: None,
            seen_lives: vec![None; gateways],
            up: Vec::new(),
            look_at: 0,
            learners: Vec::new(),
            proposed: Vec::new(),
            reads: BTreeMap::new(),
        }
    }

    /// What a replica of this configuration finds on disk. What is on its way there counts, too: this process wrote
    /// it.
    pub fn recovered(&self, configuration: u32, nonce: u64) -> Recovered {
        let mut found = Recovered { snapshot_slot: self.snapshot, ..Recovered::default() };
        found.damaged = self.damaged.then_some(nonce);
        let own = |(c, record)| (c == configuration).then_some(record);
        let written = self.disk.iter().map(|(c, r)| (*c, r));
        let writing = self.writing.iter().flat_map(|w| w.records.iter().map(|r| (w.configuration, r)));
        for record in written.chain(writing).filter_map(own) {
            match record {
                Record::Promised(b) => found.promised = found.promised.max(*b),
                Record::Committed(s) => found.commit = found.commit.max(*s),
                Record::Accepted(e) => found.entries.push(e.clone()),
            }
        }
        found
    }

    /// The replica of this configuration, if it runs here.
    pub fn replica(&mut self, configuration: u32) -> Option<&mut Consensus> {
        match &mut self.former {
            Some((former, group)) if *former == configuration => Some(group),
            _ => self.group.as_mut().filter(|g| g.config().configuration == configuration),
        }
    }
}
