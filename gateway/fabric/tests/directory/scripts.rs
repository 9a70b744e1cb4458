//! Golden scripts of a site that changes: commands of operators and gateways to the directory, and the planner's steps.
//!
//! | Command | Effect |
//! |---|---|
//! | `site SHARDS REPLICAS gN...` | starts a site; gateways have weight 1 unless given as `gN:WEIGHT` |
//! | `withdraw TOKEN` | withdraws the invitation with this token |
//! | `invite TOKEN [for MS] [replaces gN] [witness] [weight N] [zone Z]` | opens an invitation for an operator |
//! | `join TOKEN BOX [zone Z] [level N]` | a box presents the token; its key and data folder follow from its number |
//! | `announce gN BOX [zone Z] [level N]` | a gateway announces its identity and addresses |
//! | `activate gN`, `drain gN`, `resume gN`, `reweigh gN N` | the command of that name |
//! | `remove gN [force] [bad SHARD gN]...` | removes a gateway, with replicas reported as unsound |
//! | `report SHARD #N gN...`, `begin SHARD #N [-gN] [+gN]`, `progress SHARD SLOT DONE TOTAL`, `end SHARD SLOT` | SHARD is `sN` or `directory` |
//! | `pause`, `continue`, `rate N`, `upgrade N`, `elapsed` | the command of that name |
//! | `key K COMMAND` | the command as an operator's request with this idempotency key |
//! | `elapse MS` | advances the elapsed time |
//! | `up gN`, `down gN`, `full gN`, `leads gN N`, `devices gN N` | sets what the planner observes |
//! | `plan` | prints the planner's steps without carrying them out |
//! | `run N` | plans and carries out the steps, at most N times |
//! | `show`, `health` | prints the directory, or the site's health |
//! | `restore` | restores the directory from its snapshot |

use crate::golden_scripts::check;
use crate::site::*;
use selvedge_fabric::directory::*;
use selvedge_types::ids::{GatewayId, ShardId};
use std::fmt::Write;

#[test]
fn directories_do_as_written() {
    check("directory", || {
        let mut site: Option<Site> = None;
        move |told: &str, out: &mut String| {
            let words: Vec<&str> = told.split_whitespace().collect();
            if words[0] == "site" {
                let weight = |word: &&str| {
                    let (id, weight) = word.split_once(':').unwrap_or((word, "1"));
                    (gateway(id).0, weight.parse().unwrap())
                };
                let gateways: Vec<(u16, u32)> = words[3..].iter().map(weight).collect();
                site = Some(Site::new(&genesis(
                    words[1].parse().unwrap(),
                    words[2].parse().unwrap(),
                    &gateways,
                )));
                return;
            }
            tell(site.as_mut().unwrap(), &words, out);
        }
    });
}

fn gateway(word: &str) -> GatewayId {
    GatewayId(word.strip_prefix('g').unwrap().parse().unwrap())
}

fn shard(word: &str) -> ShardId {
    if word == "directory" {
        DIRECTORY_GROUP
    } else {
        ShardId(word.strip_prefix('s').unwrap().parse().unwrap())
    }
}

fn number(word: &str) -> u64 {
    word.strip_prefix('#').unwrap_or(word).parse().unwrap()
}

fn token(word: &str) -> TokenHash {
    TokenHash([word.bytes().last().unwrap(); 32])
}

fn tell(site: &mut Site, words: &[&str], out: &mut String) {
    match words {
        ["elapse", ms] => site.elapse(number(ms)),
        ["up", id] => site.up(gateway(id)),
        ["down", id] => _ = site.seen.gateways.remove(&gateway(id)),
        ["full", id] => _ = site.seen.gateways.entry(gateway(id)).and_modify(|g| g.has_room = false),
        ["leads", id, n] => {
            _ = site.seen.gateways.entry(gateway(id)).and_modify(|g| g.leads = number(n) as u32)
        }
        ["devices", id, n] => {
            _ = site.seen.gateways.entry(gateway(id)).and_modify(|g| g.devices = number(n) as u32)
        }
        ["plan"] => plan(&site.directory, &site.seen)
            .iter()
            .for_each(|step| writeln!(out, "{}", step_text(step)).unwrap()),
        ["run", rounds] => run(site, number(rounds), out),
        ["show"] => show(site, out),
        ["health"] => writeln!(out, "{}", site.directory.health(&site.seen)).unwrap(),
        ["restore"] => site.directory = Directory::restore(&site.directory.snapshot()).unwrap(),
        ["key", key, rest @ ..] => {
            let key = RequestKey([key.as_bytes()[0]; 16]);
            let outcome = site.tell_as(Some(key), command(rest));
            writeln!(out, "{}", outcome_text(&outcome)).unwrap();
        }
        words => {
            let outcome = site.tell(command(words));
            writeln!(out, "{}", outcome_text(&outcome)).unwrap();
        }
    }
}

fn command(words: &[&str]) -> DirectoryCommand {
    let value = |name: &str| words.iter().position(|w| *w == name).map(|at| words[at + 1]);
    let zone = value("zone").map(str::to_string);
    let level = value("level").map_or(1, number) as u32;
    match words {
        ["invite", name, ..] => DirectoryCommand::Invite {
            token: token(name),
            lasts_ms: value("for").map_or(3_600_000, number),
            admits: Admission {
                role: if words.contains(&"witness") { GatewayRole::Witness } else { GatewayRole::Full },
                replaces: value("replaces").map(gateway),
                weight: value("weight").map(|w| number(w) as u32),
                zone,
            },
        },
        ["join", name, of, ..] => {
            let TokenHash([token, ..]) = token(name);
            DirectoryCommand::Join(Box::new(JoinRequest { zone, ..join(token, number(of) as u8, level) }))
        }
        ["announce", id, of, ..] => {
            let JoinRequest { incarnation, key, addresses, .. } = join(0, number(of) as u8, level);
            DirectoryCommand::Announce(Box::new(Announcement {
                gateway: gateway(id),
                incarnation,
                key,
                addresses,
                zone,
                level,
            }))
        }
        ["activate", id] => DirectoryCommand::Activate { gateway: gateway(id) },
        ["drain", id] => DirectoryCommand::Drain { gateway: gateway(id) },
        ["resume", id] => DirectoryCommand::Resume { gateway: gateway(id) },
        ["reweigh", id, weight] => {
            DirectoryCommand::Reweigh { gateway: gateway(id), weight: number(weight) as u32 }
        }
        ["remove", id, rest @ ..] => DirectoryCommand::Remove {
            gateway: gateway(id),
            force: rest.contains(&"force"),
            unsound: rest
                .windows(3)
                .filter(|w| w[0] == "bad")
                .map(|w| UnsoundReplica { shard: shard(w[1]), gateway: gateway(w[2]) })
                .collect(),
        },
        ["report", of, n, voters @ ..] => DirectoryCommand::Report {
            shard: shard(of),
            configuration: ShardConfiguration {
                number: number(n) as u32,
                voters: voters.iter().map(|g| gateway(g)).collect(),
                learners: vec![],
            },
        },
        ["begin", of, n, who @ ..] => DirectoryCommand::BeginMove {
            shard: shard(of),
            leaves: who.iter().find_map(|w| w.strip_prefix('-')).map(gateway),
            comes: who.iter().find_map(|w| w.strip_prefix('+')).map(gateway),
            configuration: number(n) as u32,
        },
        ["progress", of, since, done, total] => DirectoryCommand::Progress {
            shard: shard(of),
            since: number(since),
            done_bytes: number(done),
            total_bytes: number(total),
        },
        ["end", of, since] => DirectoryCommand::EndMove { shard: shard(of), since: number(since) },
        ["pause"] => DirectoryCommand::Pause,
        ["continue"] => DirectoryCommand::Continue,
        ["rate", n] => DirectoryCommand::SetRate { bytes_per_s: number(n) },
        ["upgrade", n] => DirectoryCommand::Upgrade { level: number(n) as u32 },
        ["withdraw", name] => DirectoryCommand::Withdraw { invitation: token(name).invitation() },
        ["elapsed"] => DirectoryCommand::Elapsed,
        other => panic!("no command: {other:?}"),
    }
}

fn outcome_text(outcome: &DirectoryOutcome) -> String {
    match outcome {
        DirectoryOutcome::Done => "done".into(),
        DirectoryOutcome::Unchanged => "unchanged".into(),
        DirectoryOutcome::Invited { expires } => format!("invited until {}", expires.0),
        DirectoryOutcome::Joined { gateway } => format!("joined as {gateway}"),
        DirectoryOutcome::Begun { since } => format!("begun in slot {since}"),
        DirectoryOutcome::Refused(why) => format!("refused: {why}"),
    }
}

fn of(shard: ShardId) -> String {
    if shard == DIRECTORY_GROUP { "directory".into() } else { shard.to_string() }
}

fn names(gateways: &[GatewayId]) -> String {
    gateways.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn moved(leaves: Option<GatewayId>, comes: Option<GatewayId>) -> String {
    let text = |sign, g: Option<GatewayId>| g.map_or(String::new(), |g| format!(" {sign}{g}"));
    text('-', leaves) + &text('+', comes)
}

fn step_text(step: &DirectoryStep) -> String {
    match step {
        DirectoryStep::Propose(command) => match command {
            DirectoryCommand::BeginMove { shard, leaves, comes, configuration } => {
                format!("begin {} #{configuration}{}", of(*shard), moved(*leaves, *comes))
            }
            DirectoryCommand::Progress { shard, since, done_bytes, total_bytes } => {
                format!("progress {} {since} {done_bytes} {total_bytes}", of(*shard))
            }
            DirectoryCommand::EndMove { shard, since } => format!("end {} {since}", of(*shard)),
            DirectoryCommand::Upgrade { level } => format!("upgrade {level}"),
            DirectoryCommand::Activate { gateway } => format!("activate {gateway}"),
            DirectoryCommand::Remove { gateway, .. } => format!("remove {gateway}"),
            other => format!("{other:?}"),
        },
        DirectoryStep::StopLeading { gateway } => format!("{gateway} stops leading"),
        DirectoryStep::SendDevicesAway { gateway } => format!("devices leave {gateway}"),
        DirectoryStep::Learn { shard, gateway } => format!("{gateway} learns {}", of(*shard)),
        DirectoryStep::Stop { shard, configuration, next, directory_slot } => {
            format!("stop {} #{configuration}, next {} (slot {directory_slot})", of(*shard), names(next))
        }
    }
}

fn run(site: &mut Site, rounds: u64, out: &mut String) {
    for round in 1..=rounds {
        let steps = plan(&site.directory, &site.seen);
        if steps.is_empty() {
            return writeln!(out, "{round}: nothing to do").unwrap();
        }
        for step in steps {
            let outcome = site
                .carry_out(&step)
                .filter(|o| !matches!(o, DirectoryOutcome::Done | DirectoryOutcome::Begun { .. }));
            let outcome = outcome.map_or(String::new(), |o| format!(": {}", outcome_text(&o)));
            writeln!(out, "{round}: {}{outcome}", step_text(&step)).unwrap();
        }
    }
}

fn show(site: &Site, out: &mut String) {
    let directory = &site.directory;
    for (id, g) in directory.gateways().chain(directory.tombstones()) {
        let role = if g.role == GatewayRole::Witness { ", witness" } else { "" };
        let zone = g.zone.as_ref().map_or(String::new(), |zone| format!(", zone {zone}"));
        let place = if g.ring_id == id { String::new() } else { format!(", in place of {}", g.ring_id) };
        writeln!(out, "{id}: {}{role}, weight {}{zone}{place}, level {}", g.state, g.weight, g.level)
            .unwrap();
    }
    for (shard, c) in directory.configurations() {
        let under_way = directory.moves().get(&shard).map_or(String::new(), |m| {
            format!(", moving{} ({} of {} bytes)", moved(m.leaves, m.comes), m.done_bytes, m.total_bytes)
        });
        let learners =
            if c.learners.is_empty() { String::new() } else { format!(", {} learn", names(&c.learners)) };
        writeln!(out, "{} #{}: {}{learners}{under_way}", of(shard), c.number, names(&c.voters)).unwrap();
    }
    let paused = if directory.is_paused() { ", paused" } else { "" };
    writeln!(out, "level {}, {} bytes/s{paused}", directory.level(), directory.rate_bytes_per_s()).unwrap();
}
