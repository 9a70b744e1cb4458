//! Multi-Paxos for one group: a few replicas agree on a log of opaque values. The core never interprets a value.
//!
//! A [`Consensus`] is one replica, in one configuration of the group. The host steps it with events and proposals, takes the [`PaxosEffects`] of all
//! of them at once, and performs these in the order that their type prescribes: it sends `send` immediately, writes
//! `records` to disk, and sends `send_after` once those records are on disk. A gateway runs one group per shard.
//! The groups of a gateway share what would be expensive: one failure detector per pair of gateways
//! ([`Event::Peers`]), one fsync for all groups, one frame per peer. A group with nothing outstanding needs no
//! timer and sends nothing.
//!
//! # The protocol
//!
//! **Phase 2, the usual case.** The leader of ballot b puts values into consecutive slots and sends
//! `Accept{b, prev, values, commit}`. A follower takes the message only if it knows every slot up to `prev` to be
//! chosen, or has accepted it *in b*. This *accepted prefix* starts at the follower's commit index when it joins b.
//! The follower answers `Accepted{b, upto}` when the entries are on disk, or `Lagging{b, prefix}` at once. A slot
//! is chosen when a majority has voted for it in b. The leader sends to the others before its own disk has the
//! entry, so it counts its own vote like any other: only when the entry is on its disk.
//!
//! A follower catches up by the same message. The leader sends from the follower's prefix, one chunk at a time
//! until the follower takes one, then as many as may be in flight. It resends whatever is unanswered with growing
//! waits, the commit index included, so a follower that stays up receives everything. Entries that have left the
//! leader's memory are up to the host: it brings chosen values from the leader's log on disk ([`Event::Learned`])
//! or a snapshot ([`Event::SnapshotInstalled`]).
//!
//! **Elections.** A replica that knows no live leader first *canvasses* the others. A member supports the attempt
//! unless it knows a live leader, or could not make a promise that helps (it no longer has the entries in memory,
//! has no room on disk, or is damaged). Canvassing changes no ballot, so a gateway that lost only its link to the
//! leader, or its majority, disturbs no other. With support from a majority, the candidate takes a ballot above
//! every ballot it has seen, writes it to disk, and only then sends `Prepare`. A promise carries the entries that
//! the promiser holds, in chunks. Entries up to the promiser's commit index are chosen, so the candidate learns
//! them on the spot. For each slot above the greatest commit index of any promiser that has answered, the candidate
//! keeps the value that was accepted in the highest ballot, its own entries included. Once a majority has sent all
//! of its entries *and* the candidate has learned everything up to that greatest index, it leads: it proposes the
//! values it kept in its own ballot, then one empty value. (Logs have no holes, so there are no gaps to fill; a gap
//! would get an empty value.) A promiser that no longer holds the requested entries in memory can't supply them, so
//! it withholds its promise and, unless it knows a live leader, campaigns itself.
//!
//! The first-ranked replica among those that are up campaigns at once and the others take turns by rank. Replicas
//! that the host calls reluctant ([`Event::Reluctant`]) take the last turns, so they lead only when no other can.
//! Failed attempts spread further and further apart, so that duels end without randomness.
//!
//! **A leader gives up** when it sees no majority; when proposals have been open for [`Limits::stall_ms`] without
//! any being chosen and the cause may be its own (its own vote is missing, or no follower answers); when it hears
//! of a higher ballot; or when the host tells it to. Unless a higher ballot is the reason, it says so to the
//! replicas that it can reach. A leader whose disk is full keeps leading: it refuses proposals and serves reads,
//! because the disks of a site fill at the same pace and another leader would have to write in order to lead. (A
//! host that knows better sends [`Event::StepDown`].)
//!
//! **Reads.** A leader that has chosen an entry of its own ballot notes r, its commit index, and then asks the
//! others whether they have promised a higher ballot. If a majority has not, no later leader had chosen anything
//! when the round began, so a read is linearizable once the host has applied r. Reads that arrive while a round is
//! under way share the next one.
//!
//! # Why it is safe
//!
//! Invariant: one ballot has one leader, and one value for each slot. A candidate's ballot carries its gateway's
//! number and is on disk before the candidate sends it, so a restarted replica never leads in a ballot that it used
//! before.
//!
//! Invariant: commit <= accepted prefix <= last slot. The log in memory has no holes and reaches down at least to
//! the slot after the commit index.
//!
//! Invariant: Accepted and the commit index never reach past the accepted prefix. Otherwise a follower could hold,
//! in a lower slot, a value of an older ballot that was never chosen, and take it for chosen.
//!
//! Invariant: if a value is chosen for a slot in b, every leader of a higher ballot proposes that value there.
//! (Paxos: the majority that promised overlaps the majority that voted. The replica in the overlap voted before it
//! promised, so it reports the value, or the value lies below a commit index up to which the candidate must learn
//! first. By induction, no ballot in between has a different value.)
//!
//! Entries above the prefix, accepted in older ballots, are *kept* until they are overwritten. They count for
//! nothing in the new ballot, but they are votes: a value may be chosen through them although its leader is gone,
//! and this replica may be the only one from which the next candidate can hear of it. Raft may truncate because it
//! elects only leaders whose logs are complete; here any replica may lead and learns the missing entries from the
//! promises.
//!
//! A replica may record a value that it learned, or that was sent to help it catch up, under another ballot than
//! the one it was chosen in. A newer ballot is harmless, for a chosen value is the same in every ballot above. An
//! older ballot b is harmless as well. Say the value was chosen in b' > b by a majority that promised b' without
//! this replica. If enough others had voted for a different value in b that this replica's vote would complete a
//! majority, one of them would have promised b' too, and reported that value. It is equally harmless that a restart
//! may find a shorter prefix: the commit index is written along with the first entries after it, so the slots in
//! between were chosen anyway.
//!
//! # A replica that lost records
//!
//! A damaged replica may have forgotten promises and votes. If it went on voting, a majority could choose a second
//! value for a slot that was chosen with its vote. So it discards everything after its snapshot (an entry that it
//! still holds may be one whose replacement is lost, even below a commit index that it still holds) and stops
//! voting: it makes no promises, casts no votes and confirms no reads. It then asks *all* other members for the
//! highest ballot they have promised; P is the greatest answer. It learns chosen values from the leader, and asks
//! it for the *mark*: the slot of the first entry of the leader's own. Only a leader of a ballot above P gives one;
//! a leader of a lower ballot first has itself elected anew. When the replica knows every slot up to the mark to be
//! chosen, it promises P and votes again. (It asks each leader that it comes to follow: the log of the next leader may
//! end below the mark of the last one.)
//!
//! Why: a candidate writes its ballot to disk before it sends it and reports that ballot when asked, so every
//! ballot that this replica promised or voted in is at most P. Take a value chosen in b <= P, perhaps with a vote
//! that is lost. The leader above P was elected after the answers (had a member promised a ballot above P earlier,
//! it would have reported it), by a majority *without* this replica. The other voters for the value, a majority
//! less one, and that majority overlap in a member that has lost nothing. That member voted before it promised and
//! so reported the value; had the vote been requested after its promise, it would have refused, and the value would
//! not have been chosen. So the value lies below the mark, and this replica knows it as chosen before it promises
//! anything again. Promising P covers the lost promises.
//!
//! The greatest *last slot* of the others would not do as the mark. A member may answer first and then vote for a
//! further slot in the old ballot; together with the lost vote, still on its way to the leader, that makes a
//! majority. If the leader then restarts before its own disk has the slot, and answers last, the mark lies below
//! that slot.
//!
//! Members that are damaged at the same time say so in their answers: these count as asked, but not towards P. As
//! long as the damaged members are a minority, some undamaged member has promised each ballot in which anything was
//! proposed. If they are a majority, no leader can be elected without them and all of them stay silent. A damaged
//! replica with too few other members ([`ConfigError::DamagedAlone`]) refuses to start. Each start draws a nonce,
//! so answers to an earlier start don't count.
//!
//! # Changing the members
//!
//! The members of a configuration never change. Instead, the leader proposes a *stop*: a value that names the next
//! configuration, and that [`GroupConfig::is_stop`] tells from all others. It is chosen like any value and is the last
//! one of its configuration. A host that has applied the stop makes the next [`Consensus`], whose
//! [`base`](GroupConfig::base) is the slot of the stop. The two configurations share nothing else: the next one begins
//! at [`Ballot::ZERO`], and its records and messages are its own. Messages look the same in every configuration,
//! because the host's envelope carries the number.
//!
//! **The stop.** A leader that has a stop in its log proposes nothing more ([`ProposeError::Stopping`]). A new leader
//! that finds a stop among the values that it must adopt adopts nothing above it and writes no opening entry. A replica
//! that writes a stop into its log deletes all entries above it, so a stop is always the last entry of a log. A restart
//! may find the deleted entries on disk, and deletes them again.
//!
//! A replica that knows the stop to be chosen records that and reports it ([`PaxosEffects::stopped`]). From then on it
//! does not campaign, and it takes no value above the stop, neither from a leader nor from its host. If it leads, it
//! repeats the news to every replica that is up until that replica has confirmed it, or has left many repetitions
//! unanswered; then it needs no timer. It goes on answering others, and a candidate that it promises its vote learns
//! of the stop from the promise.
//!
//! **Learners** receive everything that followers do, and acknowledge it as something that is no vote. They answer no
//! Canvass, Prepare, Confirm or Recovering, and a leader counts the votes of members only, whatever a message says.
//! [`Consensus::progress`] shows when a learner is close enough for the stop to be proposed, and
//! [`Consensus::is_undamaged`] whether it has lost nothing. A learner votes only in a later configuration that has it as
//! a member.
//!
//! **Witnesses** are members that vote and keep entries but never lead. They hand their entries to a candidate in their
//! promises, like every member. If a candidate needs entries that have left the memory of a witness, the witness can't
//! lead in its place. It asks its host to help instead ([`PaxosEffects::behind`]); so does a replica that has stopped.
//! The host gives the candidate the chosen values from its log on disk ([`Event::Learned`]), and the candidate tries
//! again. A leader knows up to which slot all other members have everything on disk ([`Consensus::floor`]): only that may
//! the host of a witness drop. Everything above it, a full member may still have to get from the witness.
//!
//! **Reads at the end.** A leader that proposed the stop itself serves the reads that arrived before it knew the stop
//! to be chosen. No other replica can know that earlier, except from a leader of a higher ballot, which the round of
//! confirmation reveals. A leader that *adopted* the stop serves no reads at all, not even once the stop is chosen in
//! its own ballot: it may have been chosen in an earlier one, and the next configuration may have chosen values since
//! then. No member of this configuration needs to know of that. (For the mark of a damaged replica, the slot of an
//! adopted stop takes the place of the opening entry.)
//!
//! # Why changing the members is safe
//!
//! Invariant: if the leader of ballot b proposes a stop in slot s, whether adopted or not, no value above s is ever
//! chosen in a ballot below b. (Say one was chosen in slot t > s in ballot b' < b. Whoever voted for it had slot s
//! in its accepted prefix, so s was chosen, with a value that is not a stop: the leader of b' had it in its log and
//! proposed more. If the leader of b adopted the stop, it proposed another value than the chosen one in s. If the stop
//! was its own proposal, it had first adopted the value in t, so s lies above t. Both contradict. What a leader drops
//! above a stop is thus not chosen, and the induction over ballots, above, goes through for the slots that remain.)
//! Therefore the votes that are deleted above a stop count for nothing.
//!
//! Invariant: nothing is chosen after a stop that is chosen. (Not in a lower ballot, as just shown. The leader of every
//! higher ballot has the stop in its log and proposes nothing above it.) So a configuration has at most one chosen stop.
//!
//! Invariant: at most one configuration decides a slot. (The slots of a configuration are those above its base and up
//! to its chosen stop. That stop is the base of the next configuration, and the only place that names its members.)
//!
//! Invariant: no vote counts in a configuration that its voter has not begun. (Until the host has applied the stop,
//! there is nothing on the gateway that could answer.)
//!
//! *Restarts.* A gateway may restart after the stop is on its disk and before any record of the next configuration is.
//! It then begins that configuration at ballot zero, as if for the first time. It has promised nothing there that the
//! restart takes back: a promise or a vote leaves only once its record is on disk, and what leaves without a record
//! binds nobody. If not even the record that the stop is chosen has reached the disk, the gateway comes up in the old
//! configuration. As the log is written in order, it has no record of the next one either.
//!
//! *Damage.* A gateway that lost records doesn't know in which configurations it has voted. It comes up damaged in the
//! configuration of its snapshot, which may have been over for long. There it heals only by a mark that is an opening
//! entry. If the stop had been chosen before the records were lost, P would be at least the ballot in which it was,
//! and the leader above P would have adopted it and written no opening entry. So an opening entry shows that no later
//! configuration had begun, and that the replica has forgotten no vote in one. A replica that reaches the stop before
//! it is healed begins the next configuration damaged, and asks its members in turn. Learners are not asked, because
//! they have promised nothing. A learner that lost records may have been a member of a configuration that it forgot,
//! so it is damaged, too, and asks all members; it just needs no majority beside itself.
//!
//! # What the host owes a change of members
//!
//! - It keeps configurations apart: messages and records carry the number, and [`Recovered`] holds only records of this
//!   configuration. Records of an earlier one are neither promises nor votes in it.
//! - It makes the next configuration only when it has applied the stop, or from a snapshot that holds it. It reports
//!   no such snapshot to the old replica. It writes one log in order for both. A restart begins in the configuration
//!   of the snapshot and goes on through every chosen stop on disk.
//! - It never begins a configuration anew in which it had records. Its mark of lost records outlives configurations:
//!   only [`PaxosEffects::healed`] ends it.
//! - It keeps the old replica until that wants no timer, and names to it as reachable only those gateways that have not
//!   said that they have begun the next configuration.
//! - It answers a message of an older configuration by saying that it is over, and asks the sender of a newer one for
//!   chosen values ([`Event::Learned`]; they may reach beyond the stop) or a snapshot. It says which configuration it
//!   is in to a gateway that becomes reachable, and to the members of the next configuration until each has begun
//!   it: newcomers may not have heard of it, and removed members may be the only ones that know.
//! - It tells all members who learns, because any of them may lead. It drops the replica of a gateway that learns no
//!   longer.
//! - It proposes the stop when the newcomers are close and undamaged. This is not needed for safety, but the group
//!   stands still until a majority of the next configuration has everything. With fewer than three members, a damaged
//!   one could not begin at all ([`ConfigError::DamagedAlone`]).
//! - A witness keeps every entry on disk that a full member lacks.
//!
//! # Why it makes progress
//!
//! A replica that knows no leader and sees a majority campaigns, or announces that it does not lead (without room
//! on disk, or damaged, it can't campaign; witnesses and learners never do). A replica that others believe to lead in b has promised at least b. So
//! a chain of mistaken beliefs climbs through ballots. It ends at a replica that leads, and probes a replica that
//! asks, or at one that knows no leader and says so. Of two replicas, at most one has trimmed entries that the
//! other lacks, so there is always one that can lead. If that one is a witness, it does not lead: its host brings the
//! other up to date first.
//!
//! # Limits and what is left out
//!
//! - [`Limits`] bounds proposals that are not yet chosen, messages in flight to a follower, message sizes, memory
//!   and waiting reads. The host must trim ([`Event::TrimMemory`]) or the group takes nothing more.
//! - [`MAX_MEMBERS`] and [`MAX_LEARNERS`] bound a configuration. Messages of another configuration never get here.
//! - Nothing is proposed between the stop and the first election of the next configuration, which is the price of two
//!   configurations that share nothing. (Proposing several slots ahead, as in *Reconfiguring a State Machine*, would
//!   avoid the pause but not the second set of votes.)
//! - Members are trusted to follow the protocol. Messages are checked so that none can panic, overflow or grow a
//!   replica, not so that a lying member can't break agreement.
//! - A leader does not hand back to the first-ranked replica when that returns: each change costs a round of
//!   writes.
//! - There are no leases: a read costs a round trip. Clocks decide how long to wait, never what is true.
//!
//! # Sources
//!
//! Lamport, *Paxos Made Simple* (2001). Chandra, Griesemer, Redstone, *Paxos Made Live* (2007): damaged disks.
//! Liskov, Cowling, *Viewstamped Replication Revisited* (2012): recovery by asking the others. Ongaro, *Consensus:
//! Bridging Theory and Practice* (2014): asking before an election (9.6), reads by index (6.4), learners that catch
//! up before they vote (4.2). Ng, Haridi, Carbone, *Omni-Paxos* (2023): a leader needs to be connected to a majority,
//! a stop-sign ends a configuration. Lamport, Malkhi, Zhou, *Reconfiguring a State Machine* (2010): the stop as a
//! command. Lorch and others, *The SMART way to migrate replicated stateful services* (2006): each configuration is a
//! group of its own, and members of the old one help the next to begin.

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

pub use config::{
    ConfigError, GroupConfig, Limits, MAX_LEARNERS, MAX_MEMBERS, MAX_RESEND_DOUBLINGS, Recovered,
};
pub use consensus::Consensus;
pub use effects::{Event, PaxosEffects, ProposeError, Role};
pub use message::{Ballot, Entry, MAX_COUNT, Message, Record, Slot, Value};
