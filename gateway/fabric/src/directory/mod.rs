//! The directory: the gateways of a site, their roles and states, and the moves of replicas between them.
//!
//! The directory is the state of one more Paxos group, the directory group ([`DIRECTORY_GROUP`]): a table of that group's
//! machine ([`crate::machine`]), which applies the items that gateways forward to it. Every gateway has a replica of the
//! group, and so a copy of the directory. Its planner ([`plan()`]) brings the shards' replicas to where that state wants
//! them.
//!
//! # The directory proposes, the shard decides
//! A shard's membership is its own last chosen configuration. It changes by a stop entry in the shard's log, which
//! names the next voters. The directory does not vote on that entry; it learns the result from a report. The directory
//! decides which gateways exist, from that where replicas should be ([`Placement`]), and which replicas move now. A
//! stop entry carries the directory slot that began its move, and a shard refuses a stop entry with an older slot than
//! its last one.
//!
//! # Life of a gateway
//! 1. An operator requests a one-time token. The directory keeps the token's hash and what it admits
//!    ([`DirectoryCommand::Invite`]). Until a box has joined with it, the operator can withdraw the invitation
//!    ([`DirectoryCommand::Withdraw`]).
//! 2. A new box presents the token, its key and the incarnation of its data folder, and receives a number that no
//!    gateway had before ([`DirectoryCommand::Join`]).
//! 3. It learns the directory and becomes active. From then on the ring gives it its share of the replicas.
//! 4. To leave, it drains: leaders and devices go first, then replicas. Then an operator removes it.
//!
//! A dead gateway can be removed at once. The planner then has its replicas rebuilt elsewhere from the remaining ones.
//!
//! A replacement takes over weight, zone, role and position in the ring when it becomes active. Until then the replaced
//! gateway keeps its state, because the new box may never come up. The planner removes the replaced gateway when it no
//! longer holds a replica.
//!
//! A gateway that returns with another data folder or key is refused, because it may have forgotten votes. It can join
//! as a new gateway.
//!
//! # Genesis
//! The first state follows from the site's settings ([`Genesis`]): all their gateways, active, and for each shard the
//! ring's placement as configuration 1. Each gateway proposes it until one is chosen ([`DirectoryItem::Begin`]). Keys and
//! incarnations follow with the gateways' first announcements.
//!
//! # Recovery
//! When a person gives up what the site has lost, [`DirectoryCommand::Recover`] marks the lost gateways as gone, sets the
//! configurations in which the survivors go on, and ends all moves. It counts once: the site's generation grows with it.
//!
//! # Levels
//! Every stored or sent form belongs to a level, and is used only once the directory has chosen that level
//! ([`DirectoryCommand::Upgrade`]). A gateway announces the highest level that its release understands. When all gateways
//! that are not gone understand a higher one, the planner waits [`LEVEL_HOLD_MS`] and then begins it. Until then each
//! gateway may go back to an older release, which ends the wait; afterwards an older release refuses to run. A gateway that
//! is away holds the level back until it has been updated or removed, and so does a pause.
//!
//! # Requests
//! A command that an operator caused carries an idempotency key ([`RequestKey`]). A repeated request gets the outcome
//! of the first one, whatever the state is by then. The same key with another command is refused.
//!
//! # Invariants
//! - Invariant: the same commands in the same slots give the same snapshot bytes, whether or not a replica was restored
//!   from a snapshot in between.
//! - Invariant: no number is given to a second gateway, and no key or data folder is admitted twice as long as the
//!   tombstone is kept.
//! - Invariant: a gateway that is gone stays gone.
//! - Invariant: at least one active gateway holds data.
//! - Invariant: no two active gateways have the same position in the ring.
//! - Invariant: the number of a group's configuration never decreases, and one number never gets other voters.
//! - Invariant: no move leaves a group without a majority of voters that were not removed.
//! - Invariant: at most one replica of a group moves at a time, and at most [`MAX_MOVES_ENTRIES`] in the whole site.
//! - Invariant: the level never decreases, and every gateway that is not gone understands it.
//! - Invariant: unless forced, a removal leaves every group in which the gateway votes a majority of voters, and among
//!   these a full gateway, whose replicas are not reported as unsound.
//! - Invariant: a refused command changes nothing, except that its request is remembered.
//!
//! # Limits
//! - At most [`MAX_GATEWAYS`](crate::ring::MAX_GATEWAYS) gateways at a time, [`MAX_INVITATIONS_ENTRIES`] open
//!   invitations, and [`MAX_REQUESTS_ENTRIES`] remembered requests.
//! - [`MAX_TOMBSTONES_ENTRIES`] tombstones, and beyond these only tombstones of gateways that still vote in a reported
//!   configuration. Without its tombstone, a gateway's key and data folder are forgotten, but its number is not given
//!   again.
//! - All times are elapsed time, which the leaders of the directory group count. Wall clocks play no part.
//! - A removal is judged by the last report of each group and by the group's move under way. Whoever proposes a removal
//!   therefore has the groups report first.
//!
//! # Left out
//! Principals, roles and operators' signatures; leadership within a shard (the first voter is preferred); moves by the
//! actual load from devices.
//!
//! Sources: Lamport, Malkhi, Zhou, "Vertical Paxos and Primary-Backup Replication" (2009) and "Reconfiguring a State
//! Machine" (2010), for an auxiliary group and stop entries; Ongaro, "Consensus: Bridging Theory and Practice" (2014),
//! chapter 4, for one member at a time and learners first; Bortnikov et al., "Reconfigurable State Machine Replication
//! from Non-Reconfigurable Building Blocks" (2012).

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
mod recovery;
mod relocation;
mod requests;
mod snapshot;

pub use crate::configuration::DIRECTORY_GROUP;
pub use command::{
    Announcement, DirectoryCommand, DirectoryItem, JoinRequest, RequestKey, SiteRecovery, UnsoundReplica,
};
pub use configuration::ShardConfiguration;
pub use gateway::{
    FIRST_LEVEL, GatewayAddresses, GatewayKey, GatewayRecord, GatewayRole, GatewayState, LEVEL_HOLD_MS,
    MAX_ADDRESS_BYTES, MAX_TOMBSTONES_ENTRIES, MAX_ZONE_BYTES, RELEASE_LEVEL,
};
pub use genesis::{FirstGateway, Genesis, GenesisError};
pub use health::SiteHealth;
pub use invitation::{
    Admission, Invitation, InvitationId, MAX_ENDED_INVITATIONS_ENTRIES, MAX_INVITATION_MS,
    MAX_INVITATIONS_ENTRIES, TokenHash,
};
pub use moves::{
    DEFAULT_RATE_BYTES_PER_S, MAX_MOVES_ENTRIES, MAX_RATE_BYTES_PER_S, MIN_RATE_BYTES_PER_S, ShardMove,
};
pub use outcome::{DirectoryOutcome, DirectoryRefusal};
pub use placement::Placement;
pub(crate) use plan::in_order;
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

/// The number of a group's configuration at genesis.
pub const FIRST_CONFIGURATION: u32 = 1;

/// A group, displayed as `the directory` or `shard s7`.
struct Group(ShardId);

/// The result of one command, before a refusal becomes a [`DirectoryOutcome`].
type DirectoryResult = Result<DirectoryOutcome, DirectoryRefusal>;

/// The state of the directory group, as one replica has applied it.
#[derive(Debug, Clone)]
pub struct Directory {
    state: State,
    /// Derived from the gateways in `state`, and not part of snapshots.
    placement: Placement,
    /// The gateways changed in this slot, so `placement` is computed again at its end.
    is_stale: bool,
}

/// The replicated state: the same bytes on every replica, and all that a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct State {
    slot: u64,
    elapsed: ElapsedMs,
    level: u32,
    /// The level above `level` that every gateway understands, and since when.
    next_level: Option<(u32, ElapsedMs)>,
    shards: u16,
    replicas: u8,
    gateways: Gateways,
    configurations: Configurations,
    moves: Moves,
    invitations: Invitations,
    requests: Requests,
    /// The generation of the site; 0 until a recovery begins another.
    generation: u64,
}

impl Directory {
    /// The directory of a new site, at slot 0.
    ///
    /// # Errors
    /// When the ring refuses these gateways, or an address is empty, too long or has control characters.
    pub fn genesis(genesis: &Genesis) -> Result<Self, GenesisError> {
        let (gateways, configurations) = genesis.begin()?;
        Ok(Self::from_state(State {
            slot: 0,
            elapsed: ElapsedMs(0),
            level: FIRST_LEVEL,
            next_level: None,
            shards: genesis.shards,
            replicas: genesis.replicas as u8, // the ring takes at most MAX_REPLICAS
            gateways,
            configurations,
            moves: Moves::default(),
            invitations: Invitations::default(),
            requests: Requests::default(),
            generation: 0,
        }))
    }

    fn from_state(state: State) -> Self {
        let placement = Placement::of(state.shards, usize::from(state.replicas), &state.gateways);
        Self { state, placement, is_stale: false }
    }

    /// Applies a command that was chosen in `slot`. `elapsed` is the elapsed time of that slot's proposal, and `request`
    /// the key of the operator's request that caused the command.
    pub fn apply(
        &mut self,
        slot: u64,
        elapsed: ElapsedMs,
        request: Option<RequestKey>,
        command: &DirectoryCommand,
    ) -> DirectoryOutcome {
        self.advance(slot, elapsed);
        let outcome = match request {
            Some(key) => self.requested(key, command),
            None => self.command(command),
        };
        if std::mem::take(&mut self.is_stale) {
            self.placement =
                Placement::of(self.state.shards, usize::from(self.state.replicas), &self.state.gateways);
        }
        outcome
    }

    /// Time has passed up to `elapsed` in `slot`: invitations expire.
    pub fn advance(&mut self, slot: u64, elapsed: ElapsedMs) {
        self.state.slot = self.state.slot.max(slot).min(MAX_COUNT);
        // Elapsed time never decreases, and the cap leaves room for deadlines after it.
        self.state.elapsed = self.state.elapsed.max(elapsed).min(ElapsedMs(MAX_COUNT));
        self.state.invitations.expire(self.state.elapsed);
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
        let result = self.carry_out(command);
        self.state.note_level();
        result.unwrap_or_else(DirectoryOutcome::Refused)
    }

    fn carry_out(&mut self, command: &DirectoryCommand) -> DirectoryResult {
        match command {
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
            DirectoryCommand::Recover(recovery) => self.recover(recovery),
            DirectoryCommand::Withdraw { invitation } => self.withdraw(*invitation),
            DirectoryCommand::Elapsed => Ok(DirectoryOutcome::Done),
        }
    }

    /// The last slot with a command; 0 at genesis.
    pub fn slot(&self) -> u64 {
        self.state.slot
    }

    /// The elapsed time of that slot.
    pub fn elapsed(&self) -> ElapsedMs {
        self.state.elapsed
    }

    /// When the next invitation expires.
    pub fn next_due(&self) -> Option<ElapsedMs> {
        self.state.invitations.next_due()
    }

    /// The generation of the site: 0 until a recovery begins another.
    pub fn generation(&self) -> u64 {
        self.state.generation
    }

    /// The level up to which gateways may use new formats; every gateway understands it.
    pub fn level(&self) -> u32 {
        self.state.level
    }

    /// The level above [`level`](Self::level) that every gateway understands, and since when. The planner begins it after
    /// [`LEVEL_HOLD_MS`].
    pub fn next_level(&self) -> Option<(u32, ElapsedMs)> {
        self.state.next_level
    }

    /// The site's number of shards, which never changes.
    pub fn shards(&self) -> u16 {
        self.state.shards
    }

    /// How many replicas each shard should have. A site with too few gateways has fewer.
    pub fn replicas(&self) -> usize {
        usize::from(self.state.replicas)
    }

    /// The record of a gateway, unless it is unknown or gone.
    pub fn gateway(&self, id: GatewayId) -> Option<&GatewayRecord> {
        self.state.gateways.all.get(&id).filter(|g| g.state != GatewayState::Gone)
    }

    /// All gateways that are not gone, ordered by number.
    pub fn gateways(&self) -> impl Iterator<Item = (GatewayId, &GatewayRecord)> {
        self.state.gateways.living()
    }

    /// The gateways that are gone and whose tombstones are kept, ordered by number.
    pub fn tombstones(&self) -> impl Iterator<Item = (GatewayId, &GatewayRecord)> {
        self.state.gateways.all.iter().filter(|(_, g)| g.state == GatewayState::Gone).map(|(id, g)| (*id, g))
    }

    /// The highest number that was ever given to a gateway.
    pub fn highest_id(&self) -> GatewayId {
        self.state.gateways.highest
    }

    /// The gateway with this key, if it is not gone. Links authenticate their peers by this.
    pub fn by_key(&self, key: GatewayKey) -> Option<GatewayId> {
        self.gateways().find(|(_, g)| g.key == Some(key)).map(|(id, _)| id)
    }

    /// The active gateway that took over this gateway's position in the ring.
    pub fn replacement_of(&self, id: GatewayId) -> Option<GatewayId> {
        let ring_id = self.gateway(id)?.ring_id;
        self.state.gateways.in_place_of(id, ring_id, GatewayState::Active)
    }

    /// Whether a gateway votes in a group, or a move is bringing it into one.
    pub fn holds_place(&self, id: GatewayId) -> bool {
        self.state.configurations.has_voter(id) || self.moves().values().any(|m| m.comes == Some(id))
    }

    /// The last reported configuration of a shard or of [`DIRECTORY_GROUP`]; `None` if the site has no such group.
    pub fn configuration(&self, shard: ShardId) -> Option<&ShardConfiguration> {
        self.state.configurations.0.get(&shard)
    }

    /// The last reported configurations of all groups, the directory group last.
    pub fn configurations(&self) -> impl Iterator<Item = (ShardId, &ShardConfiguration)> {
        self.state.configurations.0.iter().map(|(shard, c)| (*shard, c))
    }

    /// The voters that a shard or [`DIRECTORY_GROUP`] should have, given its present voters; the preferred leader
    /// first.
    pub fn wanted(&self, shard: ShardId) -> Vec<GatewayId> {
        let current = self.configuration(shard).map_or(&[][..], |c| &c.voters);
        match shard {
            DIRECTORY_GROUP => directory_voters(&self.state.gateways, current),
            shard => shard_voters(&self.placement, &self.state.gateways, shard, current),
        }
    }

    /// The groups whose voters are not the wanted ones, the directory group last.
    pub fn misplaced(&self) -> impl Iterator<Item = (ShardId, &ShardConfiguration)> {
        self.configurations().filter(|(shard, c)| {
            let wanted = self.wanted(*shard);
            c.voters.len() != wanted.len() || c.voters.iter().any(|voter| !wanted.contains(voter))
        })
    }

    /// The placement by the present gateways. Unlike [`wanted`](Self::wanted), it ignores the shards' present voters.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The moves under way, by group; at most [`MAX_MOVES_ENTRIES`].
    pub fn moves(&self) -> &BTreeMap<ShardId, ShardMove> {
        &self.state.moves.under_way
    }

    /// Whether an operator paused all moves.
    pub fn is_paused(&self) -> bool {
        self.state.moves.paused
    }

    /// The bandwidth limit for all moves of the site together.
    pub fn rate_bytes_per_s(&self) -> u64 {
        self.state.moves.rate_bytes_per_s
    }

    /// The open invitations, by the hashes of their tokens.
    pub fn invitations(&self) -> &BTreeMap<TokenHash, Invitation> {
        &self.state.invitations.open
    }
}
