//! The replicas of a shard: its configurations, and the stop that ends one configuration and names the next.
//!
//! The first configuration of a shard comes from the ring and is stored nowhere. Each later one comes from a *stop*, a
//! value that the leader proposes like any other. A stop is the last value of its configuration, which has no slots
//! after it. A replica that applies a stop knows the next configuration: its members, its witnesses, and the slot of
//! the directory that ordered it. The next configuration continues after the stop's slot. So a shard's log names the
//! replicas at each slot that it holds, and a snapshot of the machine names those at the snapshot's slot.
//!
//! Invariant: the configurations of a shard are numbered without gaps, except where a recovery begins one
//! ([`Succession`]), and the directory's slots in them increase until then.
//! Invariant: the first byte of a value alone decides whether it is a stop ([`is_stop`]). So a replica that can't
//! decode a stop ends its configuration there as well.
//! Limits: a configuration has at most [`MAX_MEMBERS`] members. A stop moves one replica or changes its role
//! ([`Configuration::check_next`]).

use bincode::{Decode, Encode};
use selvedge_paxos::{MAX_COUNT, MAX_MEMBERS, ProposeError, Slot};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::SiteIncarnation;

/// The number of a shard's first configuration, whose members the ring names.
pub const FIRST_CONFIGURATION: u32 = 1;

/// The first byte of a stop. Any other value is empty or begins with the version of its frame, which is at least 1.
pub const STOP_MARK: u8 = 0;

/// Format version of the frame that follows [`STOP_MARK`].
pub const STOP_VERSION: u8 = 1;

/// Format version of the frame of a [`Succession`], which also follows [`STOP_MARK`]. It differs from [`STOP_VERSION`].
pub const SUCCESSION_VERSION: u8 = 2;

/// Format version of a stored [`Configuration`].
pub const CONFIGURATION_VERSION: u8 = 1;

/// The most chosen slots that a learner may still lack on its disk when a leader proposes it as a member.
pub const MAX_LEARNER_LAG_SLOTS: Slot = 64;

/// The directory group's number where groups are numbered like shards. No shard has this number.
pub const DIRECTORY_GROUP: ShardId = ShardId(u16::MAX);

/// The gateways that hold a shard in one of its configurations.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ReplicaSet {
    /// The number of the configuration. A higher one is later.
    pub configuration: u32,
    /// The members of the configuration, the preferred leader first. At most [`MAX_MEMBERS`].
    pub members: Vec<GatewayId>,
}

impl ReplicaSet {
    pub(crate) fn first(members: Vec<GatewayId>) -> Self {
        Self { configuration: FIRST_CONFIGURATION, members }
    }

    pub(crate) fn is_sound(&self) -> bool {
        (1..=MAX_MEMBERS).contains(&self.members.len())
    }
}

/// Whether a slot's value is a stop.
pub fn is_stop(value: &[u8]) -> bool {
    value.first() == Some(&STOP_MARK)
}

/// One membership of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Configuration {
    pub number: u32,
    /// The gateways whose replicas vote, the preferred leader first.
    pub members: Vec<GatewayId>,
    /// The members that vote and never lead.
    pub witnesses: Vec<GatewayId>,
    /// The slot of the stop that this configuration follows; 0 for the first. All slots up to it belong to earlier
    /// configurations.
    pub base: Slot,
    /// The slot of the directory that ordered it; 0 for the first.
    pub directory: Slot,
}

/// The last value of a configuration: it names the next one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Stop {
    /// The number of the configuration that ends.
    pub ends: u32,
    /// The members of the next configuration, the preferred leader first.
    pub members: Vec<GatewayId>,
    /// The members that never lead in it.
    pub witnesses: Vec<GatewayId>,
    /// The slot of the directory that orders the next configuration.
    pub directory: Slot,
}

/// The last value of a group's earlier generation: it ends whatever configuration the group was in, and begins the one in
/// which the survivors of a lost majority go on. No group chooses it. It is written into the log of the replica from which
/// the group goes on, while that gateway serves nothing (see [`crate::recovery`]).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Succession {
    /// The number of the next configuration.
    pub begins: u32,
    /// The members of the next configuration.
    pub members: Vec<GatewayId>,
    /// The incarnation of the site from here on. Its generation is raised if the group's is as high.
    pub incarnation: SiteIncarnation,
}

/// What the value behind [`STOP_MARK`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LastValue {
    Stop(Stop),
    Succession(Succession),
}

/// Why a replica refused to propose a stop. A refusal changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReconfigureRefused {
    /// This replica does not lead, or has not applied its opening entry yet.
    #[error("this replica does not serve as the leader; {}", match .leader { Some(l) => format!("ask {l}"), None => "it knows no leader, try again".into() })]
    NotLeader {
        /// The leader as far as this replica knows; this replica itself if it has not opened its leadership yet.
        leader: Option<GatewayId>,
    },
    /// The order does not end the present configuration.
    #[error("the order ends configuration {ends}, but the present configuration is {current}")]
    OtherConfiguration {
        /// The configuration that the order ends.
        ends: u32,
        current: u32,
    },
    /// The order is not newer than the one that the present configuration comes from, or its slot is out of range.
    #[error(
        "the order comes from slot {directory} of the directory, but the present configuration comes from slot {known}"
    )]
    OldDirectory {
        directory: Slot,
        /// The slot that the present configuration comes from.
        known: Slot,
    },
    /// The order names the present members, in the present order, and the present witnesses.
    #[error("the order changes nothing")]
    NothingChanges,
    /// The order changes more than one replica.
    #[error("the order changes more than one replica; change one at a time")]
    SeveralChange,
    /// The order makes a witness a full member, or a full member a witness. A gateway has its role for good, because a
    /// witness has no state that it could go on with.
    #[error("the order changes the role of {0}, which it has for good; admit a new gateway in its place")]
    ChangesRole(GatewayId),
    /// The members or witnesses contradict each other, or there are too many.
    #[error("no configuration can have these members: {0}")]
    BadMembers(&'static str),
    /// The new member is not a learner of the present configuration.
    #[error("{0} is not a learner; make it a learner first")]
    NoLearner(GatewayId),
    /// The new member lacks more than [`MAX_LEARNER_LAG_SLOTS`] chosen slots, or has not answered yet.
    #[error(
        "{gateway} has stored everything up to slot {has}, but slot {commit} is chosen; try again when it has caught up"
    )]
    LearnerBehind {
        gateway: GatewayId,
        /// The slot up to which it has everything on disk; 0 if it has not answered.
        has: Slot,
        commit: Slot,
    },
    /// The new member has lost records, or has not said since its start that it has lost none. With fewer than three
    /// members, it could not take part at all.
    #[error(
        "{0} has lost records and can't vote before it has asked the members for them; try again when it has healed"
    )]
    LearnerDamaged(GatewayId),
    /// The Paxos group accepts no proposal at the moment.
    #[error(transparent)]
    NotNow(#[from] ProposeError),
}

impl Configuration {
    /// The first configuration of a shard, which no stop and no order of the directory precedes.
    pub fn first(members: Vec<GatewayId>, witnesses: Vec<GatewayId>) -> Self {
        Self { number: FIRST_CONFIGURATION, members, witnesses, base: 0, directory: 0 }
    }

    /// The configuration that follows this stop, which was chosen in `slot`.
    pub fn after(stop: &Stop, slot: Slot) -> Self {
        let Stop { ends, members, witnesses, directory } = stop.clone();
        Self { number: ends.saturating_add(1), members, witnesses, base: slot, directory }
    }

    /// The configuration that follows this succession in `slot`. Orders of the directory that recovers too begin anew, so
    /// its own counts as older than all of them.
    pub fn succeeding(succession: &Succession, slot: Slot) -> Self {
        let Succession { begins, members, .. } = succession.clone();
        Self { number: begins, members, witnesses: Vec::new(), base: slot, directory: 1 }
    }

    /// Whether this gateway is a member. Members vote, learners do not.
    pub fn has_member(&self, gateway: GatewayId) -> bool {
        self.members.contains(&gateway)
    }

    /// Where the shard's replicas are, in the form that other gateways are told.
    pub fn replicas(&self) -> ReplicaSet {
        ReplicaSet { configuration: self.number, members: self.members.clone() }
    }

    /// Checks that this stop may end this configuration. Returns the member that it adds, if any.
    ///
    /// # Errors
    /// The first rule that the stop violates.
    pub fn check_next(&self, stop: &Stop) -> Result<Option<GatewayId>, ReconfigureRefused> {
        let (ends, directory) = (stop.ends, stop.directory);
        if ends != self.number || ends == u32::MAX {
            return Err(ReconfigureRefused::OtherConfiguration { ends, current: self.number });
        }
        if directory <= self.directory || directory > MAX_COUNT {
            return Err(ReconfigureRefused::OldDirectory { directory, known: self.directory });
        }
        check_members(&stop.members, &stop.witnesses).map_err(ReconfigureRefused::BadMembers)?;
        if (&stop.members, &stop.witnesses) == (&self.members, &self.witnesses) {
            return Err(ReconfigureRefused::NothingChanges);
        }
        let mut added = stop.members.iter().filter(|m| !self.has_member(**m));
        let removed = self.members.iter().filter(|m| !stop.members.contains(m)).count();
        let newcomer = added.next().copied();
        let stays = |m: &&GatewayId| self.has_member(**m);
        let changes = |m: &&GatewayId| self.witnesses.contains(m) != stop.witnesses.contains(m);
        if let Some(gateway) = stop.members.iter().filter(stays).find(changes) {
            return Err(ReconfigureRefused::ChangesRole(*gateway));
        }
        if added.next().is_some() || removed > 1 {
            return Err(ReconfigureRefused::SeveralChange);
        }
        Ok(newcomer)
    }

    /// The form that the log stores, which [`Configuration::decode`] reads.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(CONFIGURATION_VERSION, self)
    }

    /// Reads the form that [`Configuration::encode`] writes.
    ///
    /// # Errors
    /// The bytes are damaged or of another version, or the configuration contradicts itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let decoded: Self = frame::decode("configuration", CONFIGURATION_VERSION, bytes)?;
        match decoded.check() {
            Ok(()) => Ok(decoded),
            Err(why) => Err(FrameError::Malformed { what: "configuration", why: why.to_string() }),
        }
    }

    /// Checks a stored configuration. Only configurations that follow a stop are stored, so the first is refused.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        check_members(&self.members, &self.witnesses)?;
        if self.number <= FIRST_CONFIGURATION {
            return Err("the first one is not stored");
        }
        if !(1..=MAX_COUNT).contains(&self.base) || !(1..=MAX_COUNT).contains(&self.directory) {
            return Err("no slot is so low, or so high");
        }
        Ok(())
    }
}

impl Stop {
    /// The value to propose: [`STOP_MARK`] and a frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = vec![STOP_MARK];
        value.extend(frame::encode(STOP_VERSION, self));
        value
    }

    /// Decodes a value for which [`is_stop`] holds.
    ///
    /// # Errors
    /// The value is damaged or of another version, or no configuration can have its members.
    pub fn decode(value: &[u8]) -> Result<Self, FrameError> {
        let malformed = |why: &str| FrameError::Malformed { what: "stop", why: why.to_string() };
        let frame = value.strip_prefix(&[STOP_MARK]).ok_or_else(|| malformed("it is another value"))?;
        let decoded: Self = frame::decode("stop", STOP_VERSION, frame)?;
        check_members(&decoded.members, &decoded.witnesses).map_err(malformed)?;
        if decoded.ends == u32::MAX || !(1..=MAX_COUNT).contains(&decoded.directory) {
            return Err(malformed("its numbers are out of range"));
        }
        Ok(decoded)
    }
}

impl Succession {
    /// The value that the log holds: [`STOP_MARK`] and a frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut value = vec![STOP_MARK];
        value.extend(frame::encode(SUCCESSION_VERSION, self));
        value
    }
}

impl LastValue {
    /// Decodes a value for which [`is_stop`] holds.
    ///
    /// # Errors
    /// The value is damaged or of another version, or no configuration can have its members.
    pub fn decode(value: &[u8]) -> Result<Self, FrameError> {
        let [STOP_MARK, SUCCESSION_VERSION, ..] = value else { return Stop::decode(value).map(Self::Stop) };
        let malformed = |why: &str| FrameError::Malformed { what: "succession", why: why.to_string() };
        let found: Succession = frame::decode("succession", SUCCESSION_VERSION, &value[1..])?;
        check_members(&found.members, &[]).map_err(malformed)?;
        if found.begins <= FIRST_CONFIGURATION {
            return Err(malformed("its number is out of range"));
        }
        Ok(Self::Succession(found))
    }
}

fn check_members(members: &[GatewayId], witnesses: &[GatewayId]) -> Result<(), &'static str> {
    let twice =
        |all: &[GatewayId]| all.iter().enumerate().any(|(i, one)| all.iter().skip(i + 1).any(|m| m == one));
    if members.is_empty() {
        return Err("there are none");
    }
    if members.len() > MAX_MEMBERS {
        return Err("there are too many");
    }
    if twice(members) || twice(witnesses) {
        return Err("one is named twice");
    }
    if witnesses.iter().any(|w| !members.contains(w)) {
        return Err("a witness is not among them");
    }
    if witnesses.len() == members.len() {
        return Err("all are witnesses, and witnesses never lead");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u16]) -> Vec<GatewayId> {
        numbers.iter().copied().map(GatewayId).collect()
    }

    fn present() -> Configuration {
        Configuration { number: 4, members: ids(&[1, 2, 3]), witnesses: ids(&[3]), base: 90, directory: 7 }
    }

    fn stop(members: &[u16], witnesses: &[u16]) -> Stop {
        Stop { ends: 4, members: ids(members), witnesses: ids(witnesses), directory: 8 }
    }

    #[test]
    fn one_replica_moves_at_a_time() {
        use ReconfigureRefused as Refused;
        let check = |stop: Stop| present().check_next(&stop);
        assert_eq!(check(stop(&[1, 2, 3, 4], &[3])), Ok(Some(GatewayId(4))), "one is added");
        assert_eq!(check(stop(&[2, 3], &[3])), Ok(None), "one is removed");
        assert_eq!(check(stop(&[1, 4, 3], &[3])), Ok(Some(GatewayId(4))), "one is replaced");
        assert_eq!(check(stop(&[1, 2, 4], &[4])), Ok(Some(GatewayId(4))), "the witness is replaced");
        assert_eq!(check(stop(&[2, 1, 3], &[3])), Ok(None), "only the preferred leader changes");
        assert_eq!(
            check(stop(&[1, 2, 3], &[])),
            Err(Refused::ChangesRole(GatewayId(3))),
            "a witness stays one"
        );
        assert_eq!(check(stop(&[1, 2, 3], &[2, 3])), Err(Refused::ChangesRole(GatewayId(2))));
        assert_eq!(check(stop(&[1, 2, 3], &[3])), Err(Refused::NothingChanges));
        for (members, witnesses) in [(&[1, 4, 5][..], &[][..]), (&[1], &[]), (&[1, 2, 3, 4, 5], &[3])] {
            assert_eq!(check(stop(members, witnesses)), Err(Refused::SeveralChange), "{members:?}");
        }
        for (members, witnesses) in [
            (&[][..], &[][..]),
            (&[1, 1], &[]),
            (&[1], &[1]),
            (&[1, 2], &[5]),
            (&[1, 2, 3, 4, 5, 6, 7, 8], &[]),
        ] {
            assert!(matches!(check(stop(members, witnesses)), Err(Refused::BadMembers(_))), "{members:?}");
        }
        let ends = |ends| Stop { ends, ..stop(&[1, 2], &[]) };
        assert_eq!(check(ends(3)), Err(Refused::OtherConfiguration { ends: 3, current: 4 }));
        assert_eq!(check(ends(5)), Err(Refused::OtherConfiguration { ends: 5, current: 4 }));
        let old = Stop { directory: 7, ..stop(&[1, 2], &[]) };
        assert_eq!(check(old), Err(Refused::OldDirectory { directory: 7, known: 7 }));
    }

    #[test]
    fn what_was_stored_decodes_and_what_contradicts_itself_does_not() {
        let stop = stop(&[1, 2, 4], &[4]);
        assert_eq!(Stop::decode(&stop.encode()), Ok(stop.clone()));
        assert!(is_stop(&stop.encode()) && !is_stop(&[]) && !is_stop(&[5, 0]));
        let next = Configuration::after(&stop, 100);
        assert_eq!(Configuration::decode(&next.encode()), Ok(next.clone()));
        assert_eq!((next.number, next.base, next.directory), (5, 100, 8));
        for bad in [
            Configuration { number: 1, ..next.clone() },
            Configuration { base: 0, ..next.clone() },
            Configuration { base: u64::MAX, ..next.clone() },
            Configuration { witnesses: ids(&[9]), ..next },
        ] {
            assert!(Configuration::decode(&bad.encode()).is_err(), "{bad:?}");
        }
        for bad in [Stop { ends: u32::MAX, ..stop.clone() }, Stop { members: Vec::new(), ..stop }] {
            assert!(Stop::decode(&bad.encode()).is_err(), "{bad:?}");
        }
        assert!(matches!(Stop::decode(&[STOP_MARK, STOP_VERSION + 1]), Err(FrameError::Version { .. })));
    }
}
