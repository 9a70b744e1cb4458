//! The plan of a recovery in a gateway's data folder: `recovery.json`.
//!
//! The plan is on disk before the gateway says that it has taken it. It is carried out at the next start, before anything
//! else is opened, and then noted as done. A gateway that is killed in between begins again: each step looks at what is on
//! disk. The file stays: it says which gateways are given up, which a start needs before it has a copy of the directory, and
//! which generation an older plan must not follow.

use crate::identity::{self, IDENTITY_VERSION, IdentityError};
use selvedge_fabric::configuration::Succession;
use selvedge_fabric::directory::SiteRecovery;
use selvedge_log::storage::Succeeding;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::recovery::{GoesOnFrom, PlannedGroup, RecoveryPlan};
use selvedge_types::uplink::SiteIncarnation;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const RECOVERY: &str = "recovery.json";

#[derive(Serialize, Deserialize)]
struct RecoveryFile {
    format: u32,
    done: bool,
    plan: RecoveryPlan,
}

/// The last plan that this gateway has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRecovery {
    dir: PathBuf,
    pub plan: RecoveryPlan,
    /// Whether it is carried out here.
    pub done: bool,
}

/// Why a plan is not taken.
#[derive(Debug, thiserror::Error)]
pub enum PlanRefused {
    /// It contradicts itself, or is not for this gateway.
    #[error("the plan can't be carried out here: {0}")]
    Unsound(String),
    /// The gateway knows a generation that is as high or higher.
    #[error(
        "this gateway has a plan of generation {known} already, and this one is of generation {found}: look at `selvedge site recover` \
         again"
    )]
    Older { found: u64, known: u64 },
    /// The file can't be read or written.
    #[error(transparent)]
    File(#[from] IdentityError),
}

impl KeptRecovery {
    /// The plan in the folder of a gateway, if it has taken one.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn find(dir: &Path) -> Result<Option<Self>, IdentityError> {
        if !dir.join(RECOVERY).exists() {
            return Ok(None);
        }
        let RecoveryFile { done, plan, .. } = identity::read(dir, RECOVERY)?;
        Ok(Some(Self { dir: dir.into(), plan, done }))
    }

    /// Takes a plan, durably. Returns whether it is news: the same plan may come again.
    ///
    /// # Errors
    /// [`PlanRefused`]: nothing is changed.
    pub fn take(
        dir: &Path,
        plan: RecoveryPlan,
        (site, me, generation): (&str, GatewayId, u64),
    ) -> Result<bool, PlanRefused> {
        plan.check(site, me.0).map_err(PlanRefused::Unsound)?;
        let kept = Self::find(dir)?;
        if kept.as_ref().is_some_and(|kept| kept.plan == plan) {
            return Ok(false);
        }
        let known = kept.map_or(0, |kept| kept.plan.name.generation).max(generation);
        let found = plan.name.generation;
        if found <= known {
            return Err(PlanRefused::Older { found, known });
        }
        Self { dir: dir.into(), plan, done: false }.write()?;
        Ok(true)
    }

    /// Notes, durably, that the plan is carried out here.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn finish(&mut self) -> Result<(), IdentityError> {
        self.done = true;
        self.write()
    }

    fn write(&self) -> Result<(), IdentityError> {
        let file = RecoveryFile { format: IDENTITY_VERSION, done: self.done, plan: self.plan.clone() };
        identity::write(&self.dir, RECOVERY, &file)
    }

    /// What becomes of the groups of this gateway.
    pub fn orders(&self, me: GatewayId) -> Vec<(ShardId, Succeeding)> {
        let order = |group: &PlannedGroup| {
            let succession = || Succession {
                begins: group.configuration,
                members: vec![GatewayId(group.source)],
                incarnation: self.incarnation(),
            };
            let order = match (group.source == me.0, group.from) {
                (true, GoesOnFrom::Log | GoesOnFrom::Snapshot) => Succeeding::GoesOn(succession()),
                (true, GoesOnFrom::Nothing) => Succeeding::BeginsAnew(succession()),
                (false, GoesOnFrom::Log) => Succeeding::Learns(group.configuration),
                (false, GoesOnFrom::Snapshot | GoesOnFrom::Nothing) => {
                    Succeeding::Leaves(group.configuration)
                }
            };
            (ShardId(group.group), order)
        };
        self.plan.groups.iter().map(order).collect()
    }

    /// What the directory has to take in.
    pub fn for_directory(&self) -> SiteRecovery {
        let group = |g: &PlannedGroup| (ShardId(g.group), g.configuration, GatewayId(g.source));
        SiteRecovery {
            generation: self.plan.name.generation,
            lost: self.plan.lost.iter().copied().map(GatewayId).collect(),
            groups: self.plan.groups.iter().map(group).collect(),
        }
    }

    /// The incarnation that batches of the recovered groups are sent under.
    fn incarnation(&self) -> SiteIncarnation {
        let random = u128::from_str_radix(&self.plan.name.random, 16).unwrap_or_default(); // checked when it was taken
        SiteIncarnation { generation: self.plan.name.generation, random }
    }
}
