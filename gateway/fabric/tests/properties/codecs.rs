//! Whatever gateways write and send decodes to the same value; a part of it, or it with bytes appended, does not
//! decode.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use selvedge_fabric::agreement::ClockNote;
use selvedge_fabric::link::{
    Dialled, Greeting, Hello, Incarnation, Lane, Link, MAX_PEER_FRAME_BYTES, PeerFrame,
};
use selvedge_fabric::machine::{
    BatchVerdict, Command, ConnectItem, ConnectOutcome, CountingRules, DisconnectItem, DueWill, Item,
    ItemOutcome, Judged, Maker, NameRef, Origin, Page, Proposal, PublishItem, Quarantined, Reading, Readmit,
    Reason, Scanned, SessionWill, SetAside, Source, Submission,
};
use selvedge_fabric::peer::{
    BatchAnswer, BusyReason, ForwardAnswer, PeerMessage, QueryAnswer, RoutedPublish, ShardQuery,
    TransferMessage,
};
use selvedge_fabric::ring::ReplicaSet;
use selvedge_paxos::{Ballot, Message};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::question::SiteWindowPlace;
use selvedge_types::sequences::Sequences;
use selvedge_types::site_window::SiteWindow;
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{LedgerId, StreamName};
use std::sync::Arc;

fn bytes() -> impl Strategy<Value = Arc<[u8]>> {
    vec(any::<u8>(), 0..40).prop_map(Arc::from)
}

fn text() -> impl Strategy<Value = String> {
    ".{0,12}"
}

fn time() -> impl Strategy<Value = EpochMs> {
    any::<i64>().prop_map(EpochMs)
}

fn ballot() -> impl Strategy<Value = Ballot> {
    any::<(u64, u16)>().prop_map(|(round, gateway)| Ballot { round, gateway })
}

fn origin() -> impl Strategy<Value = Origin> {
    any::<(u16, u64)>().prop_map(|(gateway, start)| Origin { gateway: GatewayId(gateway), start })
}

fn paxos() -> impl Strategy<Value = Message> {
    let n = any::<(u64, u64, bool)>;
    prop_oneof![
        n().prop_map(|(attempt, commit, _)| Message::Canvass { attempt, commit }),
        (n(), ballot()).prop_map(|((attempt, _, granted), seen)| Message::Canvassed {
            attempt,
            granted,
            seen
        }),
        (n(), ballot()).prop_map(|((from, ..), ballot)| Message::Prepare { ballot, from }),
        (n(), ballot(), vec((ballot(), bytes()), 0..4)).prop_map(
            |((from, commit, more), ballot, entries)| {
                Message::Promise { ballot, from, commit, entries, more }
            }
        ),
        (n(), ballot()).prop_map(|((first, ..), ballot)| Message::Behind { ballot, first }),
        (n(), ballot(), vec(bytes(), 0..4)).prop_map(|((prev, commit, _), ballot, values)| Message::Accept {
            ballot,
            prev,
            values,
            commit
        }),
        (n(), ballot(), any::<bool>()).prop_map(|((upto, commit, vote), ballot, damaged)| {
            Message::Accepted { ballot, upto, commit, recorded: commit / 2, vote, damaged }
        }),
        (n(), ballot()).prop_map(|((prefix, ..), ballot)| Message::Lagging { ballot, prefix }),
        ballot().prop_map(|promised| Message::Refused { promised }),
        (n(), ballot()).prop_map(|((n, ..), ballot)| Message::Confirm { ballot, n }),
        (n(), ballot()).prop_map(|((n, ..), ballot)| Message::Confirmed { ballot, n }),
        ballot().prop_map(|ballot| Message::Resigned { ballot }),
        n().prop_map(|(nonce, ..)| Message::Recovering { nonce }),
        (n(), ballot()).prop_map(|((nonce, _, damaged), promised)| Message::Standing {
            nonce,
            promised,
            damaged
        }),
        (n(), ballot()).prop_map(|((nonce, ..), above)| Message::Rejoin { nonce, above }),
        n().prop_map(|(nonce, slot, _)| Message::Mark { nonce, slot }),
    ]
}

fn will() -> impl Strategy<Value = SessionWill> {
    (text(), vec(any::<u8>(), 0..9), any::<(u8, u32)>())
        .prop_map(|(topic, payload, (qos, delay_s))| SessionWill { topic, payload, qos, delay_s })
}

fn due_will() -> impl Strategy<Value = DueWill> {
    (text(), any::<(u64, u64)>(), will()).prop_map(|(client, (instance, epoch), will)| DueWill {
        client,
        instance,
        epoch,
        will,
    })
}

fn outcome() -> impl Strategy<Value = ItemOutcome> {
    let connected = (
        any::<(u64, u64, bool, u32)>(),
        vec((text(), any::<u8>()), 0..3),
        vec(any::<u16>(), 0..3),
        of(due_will()),
    )
        .prop_map(|((instance, epoch, present, expiry_s), subscriptions, touched, will)| {
            ConnectOutcome {
                instance,
                epoch,
                present,
                subscriptions,
                touched,
                expiry_s,
                will: will.map(Box::new),
            }
        });
    let reason = prop::sample::select(Reason::ALL.to_vec());
    let set_aside = (any::<u32>(), reason).prop_map(|(reading, reason)| SetAside { reading, reason });
    let judged =
        (any::<(u32, u32)>(), vec(set_aside, 0..3)).prop_map(|((counted, recognised), set_aside)| {
            ItemOutcome::Judged(Judged { counted, recognised, set_aside })
        });
    prop_oneof![
        Just(ItemOutcome::Done),
        judged,
        Just(ItemOutcome::Duplicate),
        Just(ItemOutcome::Stale),
        text().prop_map(ItemOutcome::Refused),
        connected.prop_map(|c| ItemOutcome::Connected(Box::new(c))),
        due_will().prop_map(|w| ItemOutcome::WillDue(Box::new(w))),
        vec(any::<u16>(), 0..3).prop_map(|refused| ItemOutcome::Subscribed { refused }),
    ]
}

fn replica_set() -> impl Strategy<Value = ReplicaSet> {
    (any::<u32>(), vec(any::<u16>().prop_map(GatewayId), 0..4))
        .prop_map(|(configuration, members)| ReplicaSet { configuration, members })
}

fn answer() -> impl Strategy<Value = ForwardAnswer> {
    let verdict = prop_oneof![
        vec(outcome(), 0..4).prop_map(|list| BatchVerdict::Applied(list.into_iter().collect())),
        Just(BatchVerdict::AlreadyApplied),
        any::<u64>().prop_map(|last| BatchVerdict::Gap { last }),
        Just(BatchVerdict::OldStart),
        Just(BatchVerdict::Malformed),
    ];
    let why = prop::sample::select(vec![BusyReason::Window, BusyReason::Disk, BusyReason::Outbox]);
    prop_oneof![
        (any::<u64>(), verdict).prop_map(|(slot, verdict)| ForwardAnswer::Verdict { slot, verdict }),
        (any::<Option<u16>>(), replica_set())
            .prop_map(|(leader, replicas)| ForwardAnswer::NotLeader { leader, replicas }),
        why.prop_map(|why| ForwardAnswer::Busy { why }),
    ]
}

fn batch_answer() -> impl Strategy<Value = BatchAnswer> {
    prop_oneof![bytes().prop_map(BatchAnswer::Here), Just(BatchAnswer::Unsure), Just(BatchAnswer::Lost)]
}

fn transfer() -> impl Strategy<Value = TransferMessage> {
    prop_oneof![
        prop_oneof![Just(TransferMessage::Behind), Just(TransferMessage::Wait)],
        any::<u64>().prop_map(|from| TransferMessage::FetchLog { from }),
        (any::<u64>(), vec(bytes(), 0..4)).prop_map(|(from, values)| TransferMessage::Log { from, values }),
        any::<u64>().prop_map(|slot| TransferMessage::Gone { slot }),
        any::<(u64, u64, u32)>().prop_map(|(slot, bytes, crc)| TransferMessage::Offer { slot, bytes, crc }),
        any::<(u64, u64)>().prop_map(|(slot, offset)| TransferMessage::FetchState { slot, offset }),
        (any::<(u64, u64)>(), vec(any::<u8>(), 0..40))
            .prop_map(|((slot, offset), data)| TransferMessage::State { slot, offset, data }),
        any::<u64>().prop_map(|seq| TransferMessage::FetchBatch { seq }),
        (any::<u64>(), batch_answer()).prop_map(|(seq, answer)| TransferMessage::Batch { seq, answer }),
    ]
}

fn view() -> impl Strategy<Value = SiteWindow> {
    let sample = || {
        (time(), any::<u64>(), any::<u32>(), -1e9..1e9).prop_map(|(time, slot, index, value)| Sample {
            time,
            slot,
            index,
            value,
        })
    };
    let aggregate = (sample(), sample(), any::<bool>()).prop_map(|(one, other, sketched)| {
        let mut all = if sketched { Aggregate::sketched(one) } else { Aggregate::of(one) };
        all.add(other);
        all
    });
    (text(), text(), any::<(u32, u64, u32, bool)>(), time(), time(), aggregate).prop_map(
        |(device, stream, (width_ms, late, parts, closed), start, watermark, aggregate)| {
            let (device, stream) = (Arc::from(device), Arc::from(stream));
            let (set_aside, sequences) = (late / 2, Sequences::of(closed.then_some((None, late))));
            SiteWindow {
                device,
                stream,
                width_ms,
                start,
                aggregate,
                late,
                parts,
                closed,
                watermark,
                set_aside,
                sequences,
            }
        },
    )
}

fn message() -> impl Strategy<Value = PeerMessage> {
    let shard = || any::<u16>().prop_map(ShardId);
    let place = || {
        (text(), text(), time()).prop_map(|(device, stream, start)| SiteWindowPlace { device, stream, start })
    };
    let page =
        (of(place()), any::<(u32, u32)>()).prop_map(|(after, (limit, bytes))| Page { after, limit, bytes });
    let query = (text(), of(text()), time(), time(), any::<(Option<u32>, bool, u32)>(), page).prop_map(
        |(device, stream, from, to, (every_ms, stale, wait_ms), page)| ShardQuery {
            device,
            stream,
            from,
            to,
            every_ms,
            stale,
            page,
            wait_ms,
        },
    );
    let answered = prop_oneof![
        (vec(view(), 0..3), of(place()), of(time()), any::<u32>()).prop_map(
            |(windows, next, since, lacking)| {
                QueryAnswer::Windows(Scanned { windows, next, since, lacking })
            }
        ),
        (any::<Option<u16>>(), replica_set())
            .prop_map(|(leader, replicas)| QueryAnswer::NotLeader { leader, replicas }),
        Just(QueryAnswer::Unavailable),
    ];
    let routed = (text(), vec(any::<u8>(), 0..40), any::<u8>())
        .prop_map(|(topic, payload, qos)| RoutedPublish { topic, payload, qos });
    prop_oneof![
        (shard(), any::<u32>(), paxos()).prop_map(|(group, configuration, message)| PeerMessage::Paxos {
            group,
            configuration,
            message
        }),
        (shard(), origin(), any::<u64>(), bytes())
            .prop_map(|(shard, origin, n, submission)| PeerMessage::Forward { shard, origin, n, submission }),
        (shard(), origin(), any::<u64>(), answer())
            .prop_map(|(shard, origin, n, answer)| PeerMessage::Forwarded { shard, origin, n, answer }),
        (shard(), any::<u32>(), transfer()).prop_map(|(shard, configuration, message)| {
            PeerMessage::Transfer { shard, configuration, message }
        }),
        (any::<u64>(), shard(), query).prop_map(|(id, shard, query)| PeerMessage::Query { id, shard, query }),
        (any::<u64>(), answered).prop_map(|(id, answer)| PeerMessage::Answer { id, answer }),
        any::<(u64, u64)>().prop_map(|(start, connection)| PeerMessage::Evict { start, connection }),
        any::<(u64, u16)>().prop_map(|(start, shard)| PeerMessage::EvictAll { start, shard: ShardId(shard) }),
        vec(text(), 0..4).prop_map(|filters| PeerMessage::Interest { filters: filters.into() }),
        (any::<u64>(), vec(routed, 0..3))
            .prop_map(|(publisher, publishes)| PeerMessage::Route { publisher, publishes }),
        vec(any::<(u64, u64)>(), 0..3).prop_map(|publishers| PeerMessage::Taken { publishers }),
        (shard(), any::<u32>())
            .prop_map(|(shard, configuration)| PeerMessage::Superseded { shard, configuration }),
    ]
}

fn source() -> impl Strategy<Value = Source> {
    (text(), any::<(u64, u64, u16, u8, bool, u64)>()).prop_map(
        |(client, (instance, epoch, packet_id, qos, dup, hash))| Source {
            client,
            instance,
            epoch,
            packet_id,
            qos,
            dup,
            hash,
        },
    )
}

fn quarantined() -> impl Strategy<Value = Quarantined> {
    let texts = (text(), text(), text());
    let numbers = any::<(u64, u8, u16, bool, u32)>();
    (texts, vec(any::<u8>(), 0..50), numbers, time(), vec(any::<u64>(), 0..3)).prop_map(
        |((client, topic, why), payload, (payload_bytes, qos, packet_id, dup, far_behind), at, counted)| {
            Quarantined {
                client,
                topic,
                payload,
                payload_bytes,
                qos,
                packet_id,
                dup,
                at,
                why,
                recognised: counted.len() as u32 / 2,
                counted,
                far_behind,
            }
        },
    )
}

fn item(streams: u32) -> impl Strategy<Value = Item> {
    let reading = || {
        (0..streams, of(time()), -1e9..1e9, any::<(Option<u64>, Option<u64>)>())
            .prop_map(|(stream, time, value, (seq, boot))| Reading { stream, time, value, seq, boot })
    };
    let connect = (text(), origin(), any::<(u64, bool, u32)>())
        .prop_map(|(client, at, (connection, clean, expiry_s))| (client, at, connection, clean, expiry_s));
    let connect = (connect, of(will())).prop_map(|((client, at, connection, clean, expiry_s), will)| {
        ConnectItem { client, at, connection, clean, expiry_s, will: will.map(Box::new) }
    });
    let disconnect = (text(), origin(), any::<(u64, bool, Option<u32>)>()).prop_map(
        |(client, at, (epoch, with_will, expiry_s))| DisconnectItem {
            client,
            epoch,
            at,
            with_will,
            expiry_s,
        },
    );
    prop_oneof![
        (of(source()), vec(reading(), 0..4))
            .prop_map(|(source, readings)| Item::Publish(PublishItem { source, readings })),
        Just(Item::Begin),
        connect.prop_map(Item::Connect),
        disconnect.prop_map(Item::Disconnect),
        (text(), any::<u64>(), origin()).prop_map(|(client, epoch, at)| Item::WillDone { client, epoch, at }),
        (text(), any::<u64>(), vec((text(), any::<u8>()), 0..3), vec(text(), 0..3))
            .prop_map(|(client, epoch, add, remove)| Item::Subscriptions { client, epoch, add, remove }),
        (text(), any::<(u64, u16)>()).prop_map(|(client, (epoch, shard))| Item::Touch {
            client,
            epoch,
            shard
        }),
        source().prop_map(Item::Release),
        source().prop_map(Item::ResendCounted),
        reading().prop_map(Item::Reading),
        (text(), of(text())).prop_map(|(device, stream)| Item::Retire { device, stream }),
        (text(), of(text())).prop_map(|(device, stream)| Item::ResetSequence { device, stream }),
        (any::<u64>(), quarantined()).prop_map(|(epoch, q)| Item::Quarantine { epoch, publish: Box::new(q) }),
        (any::<(u16, u64, u64)>(), vec(reading(), 0..3)).prop_map(|((shard, id, attempt), readings)| {
            Item::Readmit(Readmit { shard, id, attempt, readings })
        }),
        (any::<(u64, u64, bool, u32)>(), vec(any::<u64>(), 0..3)).prop_map(
            |((id, attempt, done, far_behind), counted)| Item::Readmitted {
                id,
                attempt,
                counted,
                far_behind,
                done
            }
        ),
    ]
}

fn submission() -> impl Strategy<Value = Submission> {
    let name = (text(), text()).prop_map(|(device, stream)| StreamName { device, stream });
    vec(name, 1..4).prop_flat_map(|streams| {
        let items = vec(item(streams.len() as u32), 0..4);
        let makers = vec(of(text()), streams.len()).prop_map(|clients| {
            let made = |(stream, client): (u32, Option<String>)| Some(Maker { stream, client: client? });
            (0..).zip(clients).filter_map(made).collect::<Vec<_>>()
        });
        (makers, items).prop_map(move |(makers, items)| Submission {
            streams: streams.clone(),
            makers,
            items,
        })
    })
}

fn command() -> impl Strategy<Value = Command> {
    let rules =
        (any::<[u32; 4]>(), vec(any::<u32>(), 0..4)).prop_map(|([a, b, c, d], windows_ms)| CountingRules {
            windows_ms,
            idle_close_ms: a,
            max_streams: b,
            recent_bytes: c,
            cut_after_ms: d,
            ..CountingRules::default()
        });
    prop_oneof![
        (origin(), any::<u64>(), submission()).prop_map(|(origin, n, submission)| Command::Forwarded {
            origin,
            n,
            submission: submission.encode().into()
        }),
        Just(Command::Tick),
        (any::<u128>(), any::<u64>())
            .prop_map(|(ledger, cursor)| Command::Confirmed { ledger: LedgerId(ledger), cursor }),
        any::<u32>().prop_map(|level| Command::Upgrade { level }),
        rules.prop_map(|rules| Command::Rules(Box::new(rules))),
    ]
}

/// Neither a part of the encoded value, nor the value with bytes appended, decodes.
fn strict<T, E>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, E>) -> Result<(), TestCaseError> {
    for cut in (0..bytes.len()).step_by(bytes.len() / 16 + 1).chain([bytes.len() - 1]) {
        prop_assert!(decode(&bytes[..cut]).is_err(), "a piece of {cut} bytes");
    }
    prop_assert!(decode(&[bytes, &[0]].concat()).is_err(), "a byte too many");
    Ok(())
}

proptest! {
    #[test]
    fn a_frame_of_messages(wall in time(), mono_ms in any::<u64>(), heard in of(any::<(u64, u64)>()), up in vec(any::<u16>(), 0..5), messages in vec(message(), 0..6)) {
        let frame = PeerFrame { clocks: ClockNote { wall, mono_ms, heard }, full: wall.0 % 2 == 0, up: up.into_iter().map(GatewayId).collect(), messages };
        let bytes = frame.encode();
        prop_assert_eq!(PeerFrame::decode(&bytes), Ok(frame));
        strict(&bytes, PeerFrame::decode)?;
    }

    #[test]
    fn a_greeting(site in text(), membership in any::<[u8; 32]>(), n in any::<(u16, u16, u16, u128, u64, u64)>(), way in 0..2) {
        let (oldest, newest, gateway, incarnation, start, run) = n;
        let (gateway, incarnation) = (GatewayId(gateway), Incarnation(incarnation));
        let hello = Hello { oldest, newest, site, membership, gateway, incarnation, start, run };
        let greeting = if way == 0 { Greeting::Hello(hello) } else { Greeting::Welcome(hello) };
        let bytes = greeting.encode();
        prop_assert_eq!(Greeting::decode(&bytes), Ok(greeting));
        strict(&bytes, Greeting::decode)?;
    }

    #[test]
    fn a_proposal(elapsed in any::<u64>(), wall in time(), sure in any::<bool>(), commands in vec(command(), 0..4)) {
        let proposal = Proposal { elapsed: ElapsedMs(elapsed), wall, sure, commands };
        let bytes = proposal.encode();
        prop_assert_eq!(Proposal::decode(&bytes), Ok(proposal));
        strict(&bytes, |bytes| <Proposal>::decode(bytes))?;
    }

    #[test]
    fn a_submission(submission in submission()) {
        let bytes = submission.encode();
        let decoded = Submission::decode(&bytes).unwrap();
        prop_assert_eq!(&decoded.items, &submission.items);
        let names = |n: &NameRef<'_>| StreamName { device: n.device.into(), stream: n.stream.into() };
        prop_assert_eq!(decoded.streams.iter().map(names).collect::<Vec<_>>(), submission.streams);
        strict(&bytes, |bytes| Submission::decode(bytes).map(drop))?;
    }

    #[test]
    fn all_that_a_link_takes_arrives_in_the_order_of_its_lane_in_frames_that_decode(
        messages in vec(message(), 0..40)
    ) {
        let mut link = Link::new(GatewayId(1), GatewayId(2));
        link.handshaking();
        link.connected(0, Dialled { by: GatewayId(1), start: 1 });
        link.send(messages.clone());
        let mut arrived = Vec::new();
        while let Some(bytes) = link.next_frame(0, ClockNote::default) {
            prop_assert!(bytes.len() <= MAX_PEER_FRAME_BYTES);
            arrived.extend(PeerFrame::decode(&bytes).unwrap().messages);
        }
        for lane in Lane::ALL {
            // Subscriptions are a state: only the newest is sent, and before the other messages of its lane.
            let (states, mut wanted): (Vec<_>, Vec<_>) = messages
                .iter()
                .filter(|m| Lane::of(m) == lane)
                .partition(|m| matches!(m, PeerMessage::Interest { .. }));
            wanted.splice(0..0, states.last().copied());
            let found: Vec<_> = arrived.iter().filter(|m| Lane::of(m) == lane).collect();
            prop_assert_eq!(found, wanted);
        }
    }
}
