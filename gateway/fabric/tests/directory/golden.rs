//! Golden bytes of what the directory stores and sends: every later release must read them.

use crate::site::*;
use bincode::config::standard;
use selvedge_fabric::directory::*;
use selvedge_types::ids::{GatewayId, ShardId};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Compares bytes with a golden file; `UPDATE_GOLDEN=1` writes the file.
fn golden(file: &str, bytes: &[u8]) {
    let path = format!("{}/tests/scripts/directory/{file}", env!("CARGO_MANIFEST_DIR"));
    let lines: Vec<String> = bytes.chunks(48).map(hex).collect();
    let text = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{file}: a changed form needs a new version");
}

/// One command of each variant, in the order of the enum.
pub fn every_command() -> Vec<DirectoryCommand> {
    let (shard, gateway) = (ShardId(300), GatewayId(4));
    vec![
        DirectoryCommand::Invite {
            token: TokenHash([7; 32]),
            lasts_ms: 3_600_000,
            admits: Admission {
                role: GatewayRole::Witness,
                replaces: Some(GatewayId(2)),
                weight: Some(3),
                zone: Some("north".into()),
            },
        },
        DirectoryCommand::Join(Box::new(JoinRequest { zone: Some("south".into()), ..join(7, 9, 2) })),
        DirectoryCommand::Activate { gateway },
        DirectoryCommand::Announce(Box::new(Announcement {
            gateway,
            incarnation: 1 << 100,
            key: GatewayKey([9; 32]),
            addresses: addresses(4),
            zone: Some("north".into()),
            level: 2,
        })),
        DirectoryCommand::Drain { gateway },
        DirectoryCommand::Resume { gateway },
        DirectoryCommand::Remove { gateway, force: true, unsound: vec![UnsoundReplica { shard, gateway }] },
        DirectoryCommand::Reweigh { gateway, weight: 64 },
        DirectoryCommand::Report {
            shard: DIRECTORY_GROUP,
            configuration: ShardConfiguration {
                number: 70_000,
                voters: vec![GatewayId(2), GatewayId(1)],
                learners: vec![GatewayId(3)],
            },
        },
        DirectoryCommand::BeginMove {
            shard,
            leaves: Some(GatewayId(1)),
            comes: Some(gateway),
            configuration: 2,
        },
        DirectoryCommand::Progress { shard, since: 9, done_bytes: 1, total_bytes: 1 << 40 },
        DirectoryCommand::EndMove { shard, since: 9 },
        DirectoryCommand::Pause,
        DirectoryCommand::Continue,
        DirectoryCommand::SetRate { bytes_per_s: 1 << 20 },
        DirectoryCommand::Upgrade { level: 2 },
        DirectoryCommand::Elapsed,
        DirectoryCommand::Recover(Box::new(SiteRecovery {
            generation: 1 << 40,
            lost: vec![GatewayId(2), GatewayId(3)],
            groups: vec![(shard, 1_000_002, gateway), (DIRECTORY_GROUP, 1_000_001, gateway)],
        })),
        DirectoryCommand::Withdraw { invitation: InvitationId([7, 8, 9, 10]) },
    ]
}

#[test]
fn items_have_these_bytes() {
    let commands = every_command().into_iter().zip(0..).map(|(command, n)| {
        let key = (n % 2 == 0).then_some(RequestKey([n; 16]));
        DirectoryItem::Command(key, command)
    });
    let begin = DirectoryItem::Begin(genesis(4, 3, &[(1, 1), (2, 2), (5, 1)]));
    let items: Vec<_> = [begin].into_iter().chain(commands).collect();
    let bytes = bincode::encode_to_vec(&items, standard()).unwrap();
    golden("items.hex", &bytes);
    let decoded: (Vec<DirectoryItem>, usize) = bincode::decode_from_slice(&bytes, standard()).unwrap();
    assert_eq!(decoded, (items, bytes.len()));
}

/// A site with an entry in every part of the directory's state.
pub fn eventful() -> Site {
    let mut site = Site::new(&genesis(4, 3, &[(1, 1), (2, 2), (5, 1)]));
    site.elapse(1_000);
    site.tell(DirectoryCommand::Announce(Box::new(Announcement {
        gateway: GatewayId(1),
        incarnation: 1 << 90,
        key: GatewayKey([1; 32]),
        addresses: addresses(1),
        zone: Some("north".into()),
        level: 2,
    })));
    site.add(Admission { zone: Some("south".into()), weight: Some(2), ..Admission::default() });
    site.add(Admission { role: GatewayRole::Witness, ..Admission::default() });
    let key = Some(RequestKey([3; 16]));
    site.tell_as(key, DirectoryCommand::Drain { gateway: GatewayId(2) });
    site.tell_as(Some(RequestKey([4; 16])), DirectoryCommand::Upgrade { level: 2 });
    for round in 0..3 {
        for step in plan(&site.directory, &site.seen) {
            site.carry_out(&step);
        }
        if round == 1 {
            site.tell(DirectoryCommand::Remove { gateway: GatewayId(5), force: true, unsound: vec![] });
        }
    }
    site.tell(invite(90, Admission { replaces: Some(GatewayId(2)), ..Admission::default() }));
    site.tell(DirectoryCommand::Invite {
        token: TokenHash([91; 32]),
        lasts_ms: 1,
        admits: Admission::default(),
    });
    site.elapse(2);
    site.tell(DirectoryCommand::Join(Box::new(join(90, 90, 1))));
    site.tell(invite(92, Admission::default()));
    site.tell(DirectoryCommand::SetRate { bytes_per_s: 1 << 20 });
    site.tell(DirectoryCommand::Pause);
    site
}

#[test]
fn a_snapshot_has_these_bytes() {
    let site = eventful();
    let directory = &site.directory;
    let states: Vec<_> = directory.gateways().map(|(_, g)| g.state).collect();
    for state in [GatewayState::Joining, GatewayState::Active, GatewayState::Draining] {
        assert!(states.contains(&state), "{state}");
    }
    assert!(directory.tombstones().count() > 0 && !directory.moves().is_empty() && directory.is_paused());
    assert_eq!(directory.invitations().len(), 1);
    let bytes = directory.snapshot();
    golden(&format!("snapshot.v{DIRECTORY_SNAPSHOT_VERSION}.hex"), &bytes);
    let restored = Directory::restore(&bytes).unwrap();
    assert_eq!(restored.snapshot(), bytes);
    assert_eq!(restored.placement(), directory.placement());
    assert_eq!(restored.digest(), directory.digest());
}

#[test]
fn genesis_is_the_same_on_every_gateway() {
    let one = Directory::genesis(&genesis(8, 3, &[(1, 1), (2, 1), (9, 3)])).unwrap();
    let other = Directory::genesis(&genesis(8, 3, &[(9, 3), (1, 1), (2, 1)])).unwrap();
    assert_eq!(one.snapshot(), other.snapshot());
    assert_eq!(one.digest(), 16_054_201_042_940_911_120);
}
