//! The bytes of stored and sent forms: every later release must be able to read what one release has written.

use crate::support::*;
use selvedge_fabric::configuration::{Configuration, Stop, is_stop};
use selvedge_fabric::machine::*;
use selvedge_types::ids::GatewayId;
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{LedgerId, SiteIncarnation};

fn submission() -> Submission {
    let source =
        Source { client: "c".into(), instance: 1, epoch: 2, packet_id: 3, qos: 2, dup: true, hash: 4 << 32 };
    let at = Origin { gateway: GatewayId(1), start: 2 };
    let sub = ("f/#".to_string(), 1);
    Submission {
        streams: vec![name("d", "s")],
        makers: vec![Maker { stream: 0, client: "c".into() }],
        items: vec![
            Item::Publish(PublishItem {
                source: Some(source.clone()),
                readings: vec![
                    Reading { seq: Some(5), boot: Some(6), ..reading(-1, 1.5) },
                    Reading { time: None, ..reading(0, 2.0) },
                ],
            }),
            Item::Connect(ConnectItem {
                client: "c".into(),
                at,
                connection: 7,
                clean: true,
                expiry_s: 300,
                will: Some(Box::new(SessionWill {
                    topic: "w".into(),
                    payload: vec![1, 2],
                    qos: 1,
                    delay_s: 60,
                })),
            }),
            Item::Subscriptions { client: "c".into(), epoch: 1, add: vec![sub], remove: vec!["g".into()] },
            Item::Begin,
            Item::Touch { client: "c".into(), epoch: 1, shard: 9 },
            Item::Release(source.clone()),
            Item::Disconnect(DisconnectItem {
                client: "c".into(),
                epoch: 1,
                at,
                with_will: true,
                expiry_s: Some(200),
            }),
            Item::WillDone { client: "c".into(), epoch: 9, at },
            Item::Retire { device: "d".into(), stream: Some("s".into()) },
            Item::Quarantine { epoch: 0, publish: Box::new(quarantined()) },
            Item::Readmit(Readmit { shard: 3, id: 1, attempt: 0, readings: vec![reading(1_000, 2.0)] }),
            Item::Readmitted { id: 2, attempt: 1, counted: vec![5], far_behind: 1, done: false },
            Item::ResetSequence { device: "d".into(), stream: Some("s".into()) },
            Item::ResendCounted(Source { qos: 1, ..source }),
        ],
    }
}

fn quarantined() -> Quarantined {
    Quarantined {
        client: "c".into(),
        topic: "d/x/status".into(),
        payload: b"offline".to_vec(),
        payload_bytes: 7,
        qos: 1,
        packet_id: 3,
        dup: false,
        at: EpochMs(1_000),
        why: "no number".into(),
        counted: vec![1 << 60],
        recognised: 1,
        far_behind: 1,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Compares bytes with a file, which `UPDATE_GOLDEN=1` writes.
fn golden(file: &str, bytes: &[u8]) {
    let path = format!("{}/tests/scripts/machine/{file}", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let lines: Vec<String> = bytes.chunks(48).map(hex).collect();
    let text = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{file}: a changed form needs a new version");
}

#[test]
fn a_submission_has_these_bytes() {
    let bytes = submission().encode();
    golden(&format!("submission.v{SUBMISSION_VERSION}.hex"), &bytes);
    let decoded = Submission::decode(&bytes).unwrap();
    assert_eq!(decoded.items, submission().items);
    assert_eq!(decoded.encode(), bytes);
}

#[test]
fn a_proposal_has_these_bytes() {
    assert_eq!(hex(&<Proposal>::default().encode()), "0600000000");
    let proposal = Proposal {
        elapsed: ElapsedMs(1_000),
        wall: EpochMs(-2),
        sure: true,
        commands: vec![
            forwarded(Origin { gateway: GatewayId(1), start: 2 }, 3, &Submission::default()),
            Command::Tick,
            Command::Confirmed { ledger: LedgerId(1), cursor: 300 },
            Command::Lost { origin: Origin { gateway: GatewayId(3), start: 4 } },
            Command::Upgrade { level: 2 },
            Command::Incarnation(SiteIncarnation { generation: 3, random: 5 }),
            Command::Rules(Box::new(CountingRules {
                streams: vec![Override::default()],
                ..CountingRules::default()
            })),
            Command::LostBatch { seq: 300 },
            Command::Settled { ledger: LedgerId(1), last: 300, beyond: true },
        ],
    };
    golden(&format!("proposal.v{PROPOSAL_VERSION}.hex"), &proposal.encode());
    assert_eq!(Proposal::decode(&proposal.encode()).unwrap(), proposal);
}

#[test]
fn a_snapshot_has_these_bytes() {
    let mut s = Shard::new(CountingRules { windows_ms: vec![1_000, 60_000], ..CountingRules::default() });
    s.submit(1_000, &submission());
    s.publish(1_000, None, numbered(7, Some(6)));
    s.tick(17_000);
    s.publish(18_000, None, reading(18_000, 3.0));
    s.tick(19_000);
    s.publish(19_000, None, reading(90_000, 4.0));
    s.publish(19_000, None, reading(18_000, 5.0));
    s.apply(19_500, vec![Command::Upgrade { level: 2 }, Command::LostBatch { seq: 1 }]);
    let sizes = s.machine.sizes();
    assert!(sizes.open_parts > 0 && sizes.sessions == 1 && sizes.clients == 1);
    assert!(s.machine.outbox_stats().batches > 0 && s.machine.outbox_stats().waiting_parts > 0);
    golden(&format!("snapshot.v{SNAPSHOT_VERSION}.hex"), &s.machine.snapshot());
    let restored = Machine::restore(s.machine.shard(), Default::default(), &s.machine.snapshot()).unwrap();
    assert_eq!(restored.snapshot(), s.machine.snapshot());
    // In a later configuration it is named behind the head, and nothing else differs.
    let first = s.machine.snapshot();
    let slot = s.machine.slot() + 1;
    s.machine.stop(slot, &stop()).unwrap();
    let named = s.machine.snapshot();
    assert_eq!(named[0], first[0] | NAMES_CONFIGURATION);
    let (configuration, end) = (&Configuration::after(&stop(), slot).encode()[1..], first.len() - 8);
    let (head, tables) = named[5..named.len() - 8].split_at(configuration.len());
    assert_eq!((head, tables), (configuration, &first[5..end]), "it stands behind a head of 5 bytes");
    let restored = Machine::restore(s.machine.shard(), Default::default(), &named).unwrap();
    assert_eq!((restored.configuration(), restored.snapshot()), (s.machine.configuration(), named));
}

fn stop() -> Stop {
    let members = [4, 1, 2].map(GatewayId).to_vec();
    Stop { ends: 1, members, witnesses: vec![GatewayId(2)], directory: 300 }
}

#[test]
fn a_stop_and_a_configuration_have_these_bytes() {
    let bytes = stop().encode();
    assert_eq!(hex(&bytes), "000101030401020102fb2c01");
    assert!(is_stop(&bytes));
    assert_eq!(Stop::decode(&bytes), Ok(stop()));
    let next = Configuration::after(&stop(), 70_000);
    assert_eq!(hex(&next.encode()), "0102030401020102fc70110100fb2c01");
    assert_eq!(Configuration::decode(&next.encode()), Ok(next));
}
