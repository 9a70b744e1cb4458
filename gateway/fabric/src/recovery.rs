//! Recovery: how the survivors of a lost majority become a new generation of their site. This page describes the protocol;
//! its parts lie in the modules that it names.
//!
//! # What a person decides
//!
//! A group that has lost a majority of its replicas for good can't choose anything, and can't know what the lost ones chose.
//! No protocol can tell gateways that are gone from gateways that are cut off, so a person says so. `selvedge site recover`
//! asks all survivors what they have ([`selvedge_types::recovery`]), shows what may be lost, and makes a plan: a generation
//! that is higher than every one known, a random part, the survivors, the lost, and for each group without a majority the one
//! survivor from which it goes on. Groups that have their majority are left alone.
//!
//! # Carrying it out
//!
//! Each survivor gets the same plan over HTTP, has it on disk before it answers, and ends its process. At its next start,
//! before it opens anything else, it changes its disk (`selvedge_log::storage::succeed`):
//!
//! - **The source** of a group takes everything that its log holds without a gap as chosen, also what it only accepted: what
//!   was acknowledged is among that, if it holds it. Behind that it writes a [`Succession`] and the record that
//!   the configuration begins which this names ([`KIND_SUCCESSION`]). The source is its only member. Its number lies
//!   [`RECOVERY_JUMP`] above the old one, so no number of the old branch ever equals one of the new. A source whose records
//!   are damaged goes on from its snapshot; a group without any sound remains begins anew, empty.
//! - **Any other survivor** that has a replica of the group marks that it votes in no configuration before the new one. It
//!   keeps its state, and catches up with the source like any replica that missed a configuration; or it is given up by the
//!   steward. Where the group goes on from less than a damaged survivor may hold, that one is given up at once.
//!
//! Then it notes that the plan is done. A survivor that is killed anywhere in between begins again, and each step sees what
//! is there. So a late survivor ends in the same state.
//!
//! The stewards have the directory take in the plan with a command ([`DirectoryCommand::Recover`]): the lost gateways are
//! gone, with tombstones; the groups have their new configurations; no move is under way. From there the ordinary planner
//! lets the groups grow again.
//!
//! # The lost ones come back
//!
//! A gateway that was given up and starts again is refused by the survivors' links: the directory has its tombstone. If it
//! meets enough of the old ones, they may believe to be the site, and serve devices that reach them. They can't harm the
//! survivors: no message between them is taken. Both send to the same node, which sees two generations and takes only the
//! later ([`SiteIncarnation`]).
//!
//! # What the node has counted
//!
//! What the lost gateways sent to the node after the last slot that the source holds can't be known here, and must not be
//! counted twice. The node's word on how many batches of the earlier generation it has decides: see the outbox
//! (`machine/counting/outbox.rs`). Until the node has spoken, nothing that was counted since the recovery is sent. Readings
//! are taken in all the while.
//!
//! # Invariants
//!
//! Invariant: a slot that the source holds is never lost by a recovery, and its value never changes.
//! Invariant: no vote of an earlier configuration counts in the one that a recovery begins, and no survivor votes in an
//! earlier one any more.
//! Invariant: a gateway takes a plan only of a later generation than it knows, so two plans don't mix.
//! Invariant: no batch that holds readings from before the recovery is applied by the node, if the node has batches of the
//! earlier generation that the survivors don't know.
//!
//! # Limits
//!
//! - What the source accepted and the lost majority never chose counts as chosen. If the lost majority chose another value
//!   in that slot, and a batch was cut there on both sides, then the node reports two contents of one number, and a person has
//!   to look (`docs/guides/troubleshoot.md`).
//! - A reading that the lost gateways counted and sent to the node, of which the source knows nothing and whose device
//!   never got its PUBACK, is counted again when the device sends it again.
//! - The node's word is its cursor. A batch beyond a gap of the earlier generation is not in it: if the lost gateways sent a
//!   batch and the one before it never arrived, what both hold and the source holds too is counted twice.
//! - If the old gateways still send while the survivors' first batches are on their way, the node may take a batch from both.
//! - A second recovery before the node has heard of the first keeps waiting for the node's word about the first generation.
//!
//! [`Succession`]: crate::configuration::Succession
//! [`KIND_SUCCESSION`]: crate::shard::KIND_SUCCESSION
//! [`RECOVERY_JUMP`]: selvedge_types::recovery::RECOVERY_JUMP
//! [`DirectoryCommand::Recover`]: crate::directory::DirectoryCommand::Recover
//! [`SiteIncarnation`]: selvedge_types::uplink::SiteIncarnation
