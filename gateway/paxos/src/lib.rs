//! Multi-Paxos for one group: a few replicas agree on a log of opaque values. It never knows what a value means.
//!
//! A [`Consensus`] is one replica. The host steps it with events and proposals, takes the [`PaxosEffects`] of them all at
//! once, and performs these in the order their type gives: `send` at once, `records` to disk, `send_after` when
//! they are there. A gateway runs one group per shard and shares between them what would cost: one failure
//! detector per pair of gateways ([`Event::Peers`]), one fsync for all, one frame per peer. A group in which
//! nothing is outstanding wants no timer and says nothing.
//!
//! # The protocol
//!
//! **Phase 2, the usual case.** The leader of ballot b puts values into consecutive slots and sends
//! `Accept{b, prev, values, commit}`. A follower takes it only if every slot up to `prev` is known to it as
//! chosen, or as accepted *in b*; this *accepted prefix* starts at its commit index when it joins b. It answers
//! `Accepted{b, upto}` when the entries are on disk, or `Lagging{b, prefix}` at once. A slot is chosen when a
//! majority voted for it in b. The leader sends to the others before its own disk has the entry, and so counts
//! its own vote like any other: only when it is on disk.
//!
//! Catching up is the same message, sent from the follower's prefix: one chunk at a time until one is taken, then
//! as many as may be in flight. Whatever is unanswered is said again with growing waits, the commit index too, so
//! a follower that is up ends with all of it. What is no longer in memory is the host's work: it brings chosen values
//! from the leader's log on disk ([`Event::Learned`]), or a snapshot ([`Event::SnapshotInstalled`]).
//!
//! **Elections.** Who knows no living leader first *canvasses*: others say yes unless they know one, and nobody's
//! ballot changes, so a gateway that lost only its link to a leader, or its majority, disturbs nobody. With a
//! majority of yes it takes a ballot above all it has seen, writes it down, and only then sends `Prepare`. Promises
//! come with what the promiser holds, in chunks. Entries up to the promiser's commit index are chosen: they are
//! learned on the spot. Of the slots above the greatest commit index of any promiser heard, the candidate keeps
//! what was accepted in the highest ballot, its own entries among them. When a majority has told all *and* it has
//! learned all up to that greatest index, it leads: it proposes what it kept in its own ballot, then one empty
//! value. (Logs have no holes, so there are no gaps to fill; a gap would get an empty value.) What a promiser no
//! longer holds in memory can't be learned so: that one promises nothing, and campaigns itself.
//!
//! The first-ranked of those alive campaigns at once, the others in turn, those last that the host calls reluctant
//! ([`Event::Reluctant`]: they lead when no other can); failed attempts spread ever farther
//! apart, so that duels end without chance.
//!
//! **Leaders go** when they see no majority; when proposals are open for [`Limits::stall_ms`] without any
//! being chosen and it may be their own fault (their own vote is missing, or nobody answers); when they hear of
//! a higher ballot; or when told to. They say so to those they can reach. A leader whose disk is full stays: it refuses
//! proposals and serves reads, for the disks of a site fill alike and another leader would have to write to lead.
//! (A host that knows better sends [`Event::StepDown`].)
//!
//! **Reads.** A leader that has chosen an entry of its own ballot notes r, its commit index, then asks the others
//! whether they have promised anything higher. If a majority has not, no later leader had chosen anything when
//! the round began, so a read is linearizable once the host has applied r. Reads that come while a round is
//! under way share the next.
//!
//! # Why it is safe
//!
//! Invariant: one ballot has one leader, and one value for each slot. A candidate's ballot carries its gateway's
//! number and is on disk before anyone hears of it, so a replica that restarted leads in no ballot it used before.
//!
//! Invariant: commit <= accepted prefix <= last slot, and a log in memory has no holes and reaches down to the
//! slot after the commit index at least.
//!
//! Invariant: Accepted and the commit index never reach past the accepted prefix. Were it not so, a follower
//! could hold a value of an older ballot in a slot below, never chosen, and take it for chosen.
//!
//! Invariant: if a value is chosen for a slot in b, every leader of a higher ballot proposes that value there.
//! (Paxos: its promises overlap the votes; the one in the overlap voted before it promised, so the value is
//! reported, or is chosen below a commit index that must be learned first. By induction nothing of a ballot in
//! between differs.)
//!
//! Entries above the prefix, of older ballots, are *kept* until overwritten. They count for nothing in the new
//! ballot, but they are votes: with them a value may be chosen whose leader is gone, and this replica may be the only
//! one a next candidate hears it from. Raft may truncate because its leaders are chosen for having all; here any
//! replica may lead and is told.
//!
//! A value learned, or sent to a laggard, is recorded under another ballot than it was chosen in. Under a newer one that is harmless, for
//! a chosen value is the same in every ballot above. So it is under an older one, b, where the value was chosen in b' > b by a majority
//! that promised b' without this replica: had others enough votes for something else in b that this replica's would complete a majority, one of
//! them promised b' too, and reported it. So is a prefix that is found shorter after a restart: the
//! commit index is written along with the first entries after it, so what lies between was chosen anyway.
//!
//! # A replica that lost records
//!
//! It may have forgotten promises and votes; if it went on voting, a majority could choose anew what was chosen
//! with its vote. It forgets everything after its snapshot (an entry it still holds may be one whose replacement
//! is lost, even below a commit index it still holds), and votes for nothing: no promise, no vote, no confirmation
//! of reads. It then asks *all* other members for the highest ballot they promised; P is the greatest
//! answer. It learns from the leader, and asks it for the slot of the first entry of its own, the *mark*, which only
//! a leader of a ballot above P gives (one of a lower ballot elects itself anew first). When it knows
//! everything up to the mark as chosen, it promises P and votes again.
//!
//! Why: a candidate writes its ballot down before it sends it, and its answer says so, hence every ballot that
//! this replica promised or voted in is at most P. Take a value chosen in b <= P, perhaps with a vote that is
//! lost. The leader above P was elected after the answers (a ballot above P that someone promised before would
//! have been answered), by a majority *without* this replica. The other voters for the value, a majority less
//! one, and that majority overlap in a member that has lost nothing. It voted before it promised and so
//! reported the value; or had it come later it would have refused the vote, and the value were not
//! chosen. So the value lies below the mark, and is known here as chosen before this replica promises anything again. The
//! lost promises are covered by promising P.
//!
//! To take the greatest *last slot* of the others as the mark instead would not do: one may answer first and vote
//! for a further slot in the old ballot afterwards; with the lost vote, still on its way to the leader, that is a
//! majority. If the leader then restarts before its own disk has the slot and answers last, the mark lies below it.
//!
//! Members that are damaged at the same time answer that they are: they count as asked, and not for P. As long as
//! they are a minority each ballot in which something was proposed was promised by one that is not among them.
//! If they are a majority, no leader can be elected without them and all stay silent. A damaged replica with too few
//! others ([`ConfigError::DamagedAlone`]) refuses to start. A nonce of each start keeps answers to an earlier
//! life from counting.
//!
//! # Why it goes on
//!
//! Whoever knows no leader and sees a majority campaigns, or says that it does not lead (without room, or damaged, it can't
//! campaign). Whoever is believed to lead in b has promised at least b. So a chain of mistaken beliefs climbs
//! through ballots, and ends at one that leads, and probes who asks, or at one that knows no leader and says so.
//! Of two replicas, at most one no longer holds what the other lacks, so one that can lead always exists.
//!
//! # Limits and what is left out
//!
//! - Bounded by [`Limits`]: what is proposed and not chosen, what is in flight to a follower, messages, memory, and
//!   reads. The host must trim ([`Event::TrimMemory`]) or the group takes nothing more.
//! - The membership is fixed. Reconfiguration is by a stop value, outside; messages of another
//!   configuration never get here.
//! - Members are trusted to follow the protocol. Messages are checked so that none can panic, overflow or
//!   grow a replica, not so that a lying member can't break agreement.
//! - A leader does not go back to the first-ranked when that returns: each change costs a round of writes.
//! - No leases: a read costs a round trip. Clocks decide about waiting, never about what is true.
//!
//! # Sources
//!
//! Lamport, *Paxos Made Simple* (2001). Chandra, Griesemer, Redstone, *Paxos Made Live* (2007): damaged disks.
//! Liskov, Cowling, *Viewstamped Replication Revisited* (2012): recovery by asking the others. Ongaro,
//! *Consensus: Bridging Theory and Practice* (2014): asking before an election (9.6), reads by index (6.4). Ng, Haridi,
//! Carbone, *Omni-Paxos* (2023): leading takes a connected majority.

mod acceptor;
mod campaign;
mod config;
mod consensus;
mod digest;
mod effects;
mod election;
mod leader;
mod log;
mod message;
mod reign;
mod repair;

pub use config::{ConfigError, GroupConfig, Limits, MAX_MEMBERS, MAX_RESEND_DOUBLINGS, Recovered};
pub use consensus::Consensus;
pub use effects::{Event, PaxosEffects, ProposeError, Role};
pub use message::{Ballot, Entry, MAX_COUNT, Message, Record, Slot, Value};
