//! The directory: which gateways a site has, what each of them is for, and how its replicas move.
//!
//! It is the state of one more Paxos group, the directory group ([`DIRECTORY_GROUP`]), and the planner that brings the shards to where
//! that state wants them. Nothing here does IO: commands come in slot order, and what the planner sees is handed to it.
//!
//! # The directory proposes, the shard decides
//! A shard's membership is its own last chosen configuration. It changes by a stop entry in the shard's log, which names the next
//! voters; the directory has no say in that and learns it by a report. What the directory decides is which gateways there are, and so
//! where replicas should be ([`placement`]), and which of them are moving. A stop entry carries the slot of the directory that began its
//! move; a shard refuses one from before its last.
//!
//! # How a gateway comes and goes
//! An operator has a one-time token made; the directory keeps its hash with what it admits ([`DirectoryCommand::Invite`]). A new box shows
//! the token with its key and its data folder's incarnation, and gets a number that no gateway ever had ([`DirectoryCommand::Join`]).
//! It learns the directory, becomes active, and the ring gives it its share. Before it leaves it drains: leaders and devices go, then replicas.
//! One that is dead is removed at once: its replicas are made anew elsewhere from those that are left.
//!
//! A replacement takes over weight, zone, role and place in the ring when it becomes active. Until then the one that it replaces stays as
//! it is, for a new box may never come up. The replaced gateway is removed when it holds no replica any more.
//!
//! A gateway that comes back with another data folder or key is refused: it may have forgotten votes. It joins as a new one.
//!
//! # Genesis
//! Slot 0 is what the site's settings say ([`Genesis`]): gateways, all of them active, and for each shard the ring's placement as configuration
//! 1. It needs no agreement: every gateway computes the same bytes. Keys and incarnations come with the first announcements.
//!
//! # Requests
//! A command that an operator caused carries the key of the request. One that is sent again has the outcome of the first, whatever the
//! state is by then; a key with another command is refused.
//!
//! # Invariants
//! - Invariant: slots are applied in order, each once; the same proposals give the same snapshot bytes, restored on the way or not.
//! - Invariant: no number is given to a second gateway, and no key or data folder is admitted twice, as long as its tombstone is kept.
//! - Invariant: a gateway that is gone stays so.
//! - Invariant: at least one active gateway holds data.
//! - Invariant: no two active gateways stand in one place of the ring.
//! - Invariant: a group's configuration never goes back, and a number has one set of voters.
//! - Invariant: at most one replica of a group moves, and at most [`MAX_MOVES_ENTRIES`] of the site.
//! - Invariant: the level never goes back, and every gateway that is not gone understands it.
//! - Invariant: a removal that is not forced leaves each group a majority, and a replica that is not known as bad.
//! - Invariant: a command that is refused changes nothing but the elapsed time.
//!
//! # Limits
//! [`MAX_GATEWAYS`](crate::ring::MAX_GATEWAYS) gateways at a time; [`MAX_TOMBSTONES_ENTRIES`] that are gone (of those beyond, the highest
//! number alone is kept); [`MAX_INVITATIONS_ENTRIES`] open invitations; [`MAX_REQUESTS_ENTRIES`] requests. Time is elapsed time, which the leaders
//! count; no wall clock matters. What is left of a shard when a gateway goes is judged by the shard's last report, and by the move under way:
//! whoever proposes a removal has the shards report first.
//!
//! # Left out
//! Principals, roles and operators' signatures; withdrawing an invitation (it expires); recovering a site whose majority is lost; who
//! leads within a shard (the first of its voters is preferred); moving by the devices' real load.
//!
//! Sources: Lamport, Malkhi, Zhou, "Vertical Paxos and Primary-Backup Replication" (2009) and "Reconfiguring a State Machine" (2010), for
//! an auxiliary group and stop entries; Ongaro, "Consensus: Bridging Theory and Practice" (2014), chapter 4, for one member at a time and
//! learners first; Bortnikov et al., "Reconfigurable State Machine Replication from Non-Reconfigurable Building Blocks" (2012).

mod command;
mod configuration;
mod gateway;
mod genesis;
mod health;
mod invitation;
mod membership;
mod moves;
mod outcome;
mod placement;
mod plan;
mod relocation;
mod requests;
mod snapshot;

pub use command::{
    Announcement, DIRECTORY_PROPOSAL_VERSION, DirectoryCommand, DirectoryProposal, JoinRequest, RequestKey,
    UnsoundReplica, unknown_directory_version,
};
pub use configuration::ShardConfiguration;
pub use gateway::{
    FIRST_LEVEL, GatewayAddresses, GatewayKey, GatewayRecord, GatewayRole, GatewayState, MAX_ADDRESS_BYTES,
    MAX_TOMBSTONES_ENTRIES, MAX_ZONE_BYTES,
};
pub use genesis::{FirstGateway, Genesis, GenesisError};
pub use health::SiteHealth;
pub use invitation::{
    Admission, Invitation, MAX_ENDED_INVITATIONS_ENTRIES, MAX_INVITATION_MS, MAX_INVITATIONS_ENTRIES,
    TokenHash,
};
pub use moves::{
    DEFAULT_RATE_BYTES_PER_S, MAX_MOVES_ENTRIES, MAX_RATE_BYTES_PER_S, MIN_RATE_BYTES_PER_S, ShardMove,
};
pub use outcome::{DirectoryOutcome, DirectoryRefusal};
pub use placement::Placement;
pub use plan::{DRAIN_FIRST_MS, DirectoryStep, Seen, SeenGateway, SeenLearner, plan};
pub use requests::MAX_REQUESTS_ENTRIES;
pub use snapshot::{DIRECTORY_SNAPSHOT_VERSION, DirectoryRestoreError};

use bincode::{Decode, Encode};
use configuration::Configurations;
use gateway::Gateways;
use invitation::Invitations;
use moves::Moves;
use placement::{directory_voters, shard_voters};
use requests::{Requests, fingerprint};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;
use snapshot::MAX_COUNT;
use std::collections::BTreeMap;

/// The group that holds the directory, where groups are numbered as shards are. No shard has this number.
pub const DIRECTORY_GROUP: ShardId = ShardId(u16::MAX);

/// The number of a group's configuration at genesis.
pub const FIRST_CONFIGURATION: u32 = 1;

/// A group, as texts name it.
struct Group(ShardId);

/// Why a replica of the directory must stop: what it holds is no longer the directory, or would not be after this slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryHalt {
    /// Not the next slot.
    #[error("directory: slot {found} was to be applied, but {expected} is next")]
    Slot { expected: u64, found: u64 },
    /// A chosen value that this release can't read.
    #[error("directory: what was chosen in slot {slot} can't be read: {why}")]
    Undecodable { slot: u64, why: String },
}

/// What becomes of a command that is applied.
type DirectoryResult = Result<DirectoryOutcome, DirectoryRefusal>;

/// The state of the directory group, as one replica has applied it.
#[derive(Debug, Clone)]
pub struct Directory {
    state: State,
    /// Derived: where shards should be.
    placement: Placement,
    /// The placement is older than the gateways.
    is_stale: bool,
}

/// All that is replicated.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct State {
    slot: u64,
    elapsed: ElapsedMs,
    level: u32,
    shards: u16,
    replicas: u8,
    gateways: Gateways,
    configurations: Configurations,
    moves: Moves,
    invitations: Invitations,
    requests: Requests,
}

impl Directory {
    /// The directory of a site that begins.
    ///
    /// # Errors
    /// When there is no ring with such gateways, or an address can't be kept.
    pub fn genesis(genesis: &Genesis) -> Result<Self, GenesisError> {
        let (gateways, configurations) = genesis.begin()?;
        Ok(Self::from_state(State {
            slot: 0,
            elapsed: ElapsedMs(0),
            level: FIRST_LEVEL,
            shards: genesis.shards,
            replicas: genesis.replicas as u8, // the ring takes at most MAX_REPLICAS
            gateways,
            configurations,
            moves: Moves::default(),
            invitations: Invitations::default(),
            requests: Requests::default(),
        }))
    }

    fn from_state(state: State) -> Self {
        let placement = Placement::of(state.shards, usize::from(state.replicas), &state.gateways);
        Self { state, placement, is_stale: false }
    }

    /// Applies what slot `slot` holds: a [`DirectoryProposal`]. Returns what became of its commands, in their order.
    ///
    /// # Errors
    /// [`DirectoryHalt`] when this directory can't go on; it has not changed, and is to be dropped.
    pub fn apply(&mut self, slot: u64, value: &[u8]) -> Result<Vec<DirectoryOutcome>, DirectoryHalt> {
        let expected = self.state.slot.saturating_add(1).min(MAX_COUNT);
        if slot != expected {
            return Err(DirectoryHalt::Slot { expected, found: slot });
        }
        let proposal = DirectoryProposal::decode(value)
            .map_err(|e| DirectoryHalt::Undecodable { slot, why: e.to_string() })?;
        self.state.slot = slot;
        // Never back, and never so far ahead that nothing could come due after it.
        self.state.elapsed = self.state.elapsed.max(proposal.elapsed).min(ElapsedMs(MAX_COUNT));
        self.state.invitations.expire(self.state.elapsed);
        let outcomes = proposal.commands.iter().map(|(request, command)| match request {
            Some(key) => self.requested(*key, command),
            None => self.command(command),
        });
        let outcomes = outcomes.collect();
        if std::mem::take(&mut self.is_stale) {
            self.placement =
                Placement::of(self.state.shards, usize::from(self.state.replicas), &self.state.gateways);
        }
        Ok(outcomes)
    }

    fn requested(&mut self, key: RequestKey, command: &DirectoryCommand) -> DirectoryOutcome {
        let fingerprint = fingerprint(command);
        match self.state.requests.known(key) {
            Some((known, outcome)) if known == fingerprint => return outcome.clone(),
            Some(_) => return DirectoryOutcome::Refused(DirectoryRefusal::KeyReused),
            None => {}
        }
        let outcome = self.command(command);
        self.state.requests.note(key, fingerprint, outcome.clone());
        outcome
    }

    fn command(&mut self, command: &DirectoryCommand) -> DirectoryOutcome {
        let result = match command {
            DirectoryCommand::Invite { token, lasts_ms, admits } => self.invite(*token, *lasts_ms, admits),
            DirectoryCommand::Join(asked) => self.join(asked),
            DirectoryCommand::Activate { gateway } => self.activate(*gateway),
            DirectoryCommand::Announce(told) => self.announce(told),
            DirectoryCommand::Drain { gateway } => self.drain(*gateway),
            DirectoryCommand::Resume { gateway } => self.resume(*gateway),
            DirectoryCommand::Remove { gateway, force, unsound } => self.remove(*gateway, *force, unsound),
            DirectoryCommand::Reweigh { gateway, weight } => self.reweigh(*gateway, *weight),
            DirectoryCommand::Report { shard, configuration } => self.report(*shard, configuration),
            DirectoryCommand::BeginMove { shard, leaves, comes, configuration } => {
                self.begin_move(*shard, *leaves, *comes, *configuration)
            }
            DirectoryCommand::Progress { shard, since, done_bytes, total_bytes } => {
                self.progress(*shard, *since, *done_bytes, *total_bytes)
            }
            DirectoryCommand::EndMove { shard, since } => self.end_move(*shard, *since),
            DirectoryCommand::Pause => self.pause(true),
            DirectoryCommand::Continue => self.pause(false),
            DirectoryCommand::SetRate { bytes_per_s } => self.set_rate(*bytes_per_s),
            DirectoryCommand::Upgrade { level } => self.upgrade(*level),
            DirectoryCommand::Elapsed => Ok(DirectoryOutcome::Done),
        };
        result.unwrap_or_else(DirectoryOutcome::Refused)
    }

    /// The last slot that was applied.
    pub fn slot(&self) -> u64 {
        self.state.slot
    }

    /// The elapsed time of the last proposal that was applied.
    pub fn elapsed(&self) -> ElapsedMs {
        self.state.elapsed
    }

    /// When time alone changes something; a proposal is due then.
    pub fn next_due(&self) -> Option<ElapsedMs> {
        self.state.invitations.next_due()
    }

    /// The level of forms that may be used.
    pub fn level(&self) -> u32 {
        self.state.level
    }

    /// How many shards the site has, for ever.
    pub fn shards(&self) -> u16 {
        self.state.shards
    }

    /// How many replicas of each shard are wanted.
    pub fn replicas(&self) -> usize {
        usize::from(self.state.replicas)
    }

    /// A gateway that is not gone.
    pub fn gateway(&self, id: GatewayId) -> Option<&GatewayRecord> {
        self.state.gateways.all.get(&id).filter(|g| g.state != GatewayState::Gone)
    }

    /// All gateways that are not gone, by their numbers.
    pub fn gateways(&self) -> impl Iterator<Item = (GatewayId, &GatewayRecord)> {
        self.state.gateways.living()
    }

    /// The gateways that are gone and still known.
    pub fn tombstones(&self) -> impl Iterator<Item = (GatewayId, &GatewayRecord)> {
        self.state.gateways.all.iter().filter(|(_, g)| g.state == GatewayState::Gone).map(|(id, g)| (*id, g))
    }

    /// The highest number that a gateway ever had.
    pub fn highest_id(&self) -> GatewayId {
        self.state.gateways.highest
    }

    /// The gateway with this key, if it is not gone: by this a link's peer is admitted.
    pub fn by_key(&self, key: GatewayKey) -> Option<GatewayId> {
        self.gateways().find(|(_, g)| g.key == Some(key)).map(|(id, _)| id)
    }

    /// The active gateway that took a gateway's place.
    pub fn replacement_of(&self, id: GatewayId) -> Option<GatewayId> {
        let ring_id = self.gateway(id)?.ring_id;
        self.state.gateways.in_place_of(id, ring_id, GatewayState::Active)
    }

    /// Whether a gateway votes in a group, or is on its way into one.
    pub fn holds_place(&self, id: GatewayId) -> bool {
        self.state.configurations.has_voter(id) || self.moves().values().any(|m| m.comes == Some(id))
    }

    /// What a group last reported; [`DIRECTORY_GROUP`] is one of them. Nothing for one that the site does not have.
    pub fn configuration(&self, shard: ShardId) -> Option<&ShardConfiguration> {
        self.state.configurations.0.get(&shard)
    }

    /// What all groups last reported, the directory group last.
    pub fn configurations(&self) -> impl Iterator<Item = (ShardId, &ShardConfiguration)> {
        self.state.configurations.0.iter().map(|(shard, c)| (*shard, c))
    }

    /// The voters that a group should have as it is now, the preferred leader first; [`DIRECTORY_GROUP`] is one of them.
    pub fn wanted(&self, shard: ShardId) -> Vec<GatewayId> {
        let current = self.configuration(shard).map_or(&[][..], |c| &c.voters);
        match shard {
            DIRECTORY_GROUP => directory_voters(&self.state.gateways, current),
            shard => shard_voters(&self.placement, &self.state.gateways, shard, current),
        }
    }

    /// Where the ring places shards.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Moves under way, by group.
    pub fn moves(&self) -> &BTreeMap<ShardId, ShardMove> {
        &self.state.moves.under_way
    }

    /// Whether moves are paused.
    pub fn is_paused(&self) -> bool {
        self.state.moves.paused
    }

    /// How many bytes per second all moves of the site may take together.
    pub fn rate_bytes_per_s(&self) -> u64 {
        self.state.moves.rate_bytes_per_s
    }

    /// Open invitations, by the hashes of their tokens.
    pub fn invitations(&self) -> &BTreeMap<TokenHash, Invitation> {
        &self.state.invitations.open
    }
}
