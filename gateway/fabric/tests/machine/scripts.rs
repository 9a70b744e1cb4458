//! Golden scripts: each line that starts with `> ` gives the machine a command at a stamp, and the lines that
//! follow show all of its effects. `UPDATE_GOLDEN=1` rewrites the answers; read them before you commit them.
//!
//! ```text
//! > rules {"windows_ms":[10000]}
//! > @STAMP publish D/S=VALUE[@TIME][#SEQ][~BOOT] ... [by CLIENT:INSTANCE:EPOCH:ID:HASH qos1|qos2 [dup]]
//! > @STAMP connect CLIENT gGATEWAY.START conn=N [clean] [expiry=S] [will=DELAY_S]
//! > @STAMP disconnect CLIENT EPOCH gGATEWAY.START [bye] [expiry=S]
//! > @STAMP published CLIENT EPOCH gGATEWAY.START  (the will of that connection)
//! > @STAMP lost gGATEWAY.START
//! > @STAMP subscribe CLIENT EPOCH +FILTER -FILTER
//! > @STAMP touch CLIENT EPOCH SHARD
//! > @STAMP release CLIENT:INSTANCE:EPOCH:ID:HASH
//! > @STAMP from gGATEWAY.START#N        (an empty batch of that origin)
//! > @STAMP tick | confirm CURSOR
//! > restore                             (store and restore the machine)
//! ```

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::ids::GatewayId;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, LedgerId};
use std::fmt::Write;
use std::sync::Arc;

#[test]
fn scripts_run_as_written() {
    let folder = format!("{}/tests/scripts/machine", std::env::var("CARGO_MANIFEST_DIR").unwrap());
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "txt") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let ran = run(&text);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &ran).unwrap();
        } else {
            assert_eq!(text, ran, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 4);
}

/// The script with the answers that it gets now. Comments and blank lines stay.
fn run(text: &str) -> String {
    let mut shard = Shard::fresh(CountingRules::default());
    let mut out = String::new();
    for line in text.lines() {
        if let Some(told) = line.strip_prefix("> ") {
            writeln!(out, "{line}").unwrap();
            tell(&mut shard, told, &mut out);
        } else if line.starts_with('#') || line.is_empty() {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}

fn tell(s: &mut Shard, told: &str, out: &mut String) {
    if let Some(json) = told.strip_prefix("rules ") {
        let rules = serde_json::from_str(json).unwrap();
        let stamp = s.machine.elapsed().0 as i64;
        let applied = s.apply(stamp, vec![Command::Rules(Box::new(rules))]);
        return show(s, &applied, out);
    }
    if told == "restore" {
        let rules = Arc::new(s.machine.rules().clone());
        s.machine = Machine::restore(SHARD, rules, &s.machine.snapshot()).unwrap();
        return;
    }
    let mut words = told.split_whitespace();
    let stamp: i64 = words.next().unwrap().strip_prefix('@').unwrap().parse().unwrap();
    let what = words.next().unwrap();
    let rest: Vec<&str> = words.collect();
    let number = |i: usize| rest[i].parse::<u64>().unwrap();
    let client = || rest[0].to_string();
    let value = |key: &str| rest.iter().find_map(|w| w.strip_prefix(key)).map(|v| v.parse::<u64>().unwrap());
    let item = match what {
        "tick" => {
            let applied = s.tick(stamp);
            return show(s, &applied, out);
        }
        "confirm" => {
            let applied = s.apply(stamp, vec![Command::Confirmed { ledger: LedgerId(1), cursor: number(0) }]);
            return show(s, &applied, out);
        }
        "from" => {
            let (at, n) = rest[0].split_once('#').unwrap();
            let command = forwarded(origin(at), n.parse().unwrap(), &Submission::default());
            let applied = s.apply(stamp, vec![command]);
            writeln!(out, "{:?}", applied.verdicts[0].2).unwrap();
            return show(s, &applied, out);
        }
        "publish" => return publish(s, stamp, &rest, out),
        "lost" => {
            let applied = s.apply(stamp, vec![Command::Lost { origin: origin(rest[0]) }]);
            return show(s, &applied, out);
        }
        "connect" => {
            let value = |key: &str| value(key).unwrap_or(0);
            let will = |delay_s: u64| SessionWill {
                topic: "w".into(),
                payload: b"gone".to_vec(),
                qos: 1,
                delay_s: delay_s as u32,
            };
            Item::Connect(ConnectItem {
                client: client(),
                at: origin(rest[1]),
                connection: value("conn="),
                clean: rest.contains(&"clean"),
                expiry_s: value("expiry=") as u32,
                will: rest.iter().any(|w| w.starts_with("will=")).then(|| Box::new(will(value("will=")))),
            })
        }
        "disconnect" => Item::Disconnect(DisconnectItem {
            client: client(),
            epoch: number(1),
            at: origin(rest[2]),
            with_will: !rest.contains(&"bye"),
            expiry_s: value("expiry=").map(|s| s as u32),
        }),
        "published" => Item::WillDone { client: client(), epoch: number(1), at: origin(rest[2]) },
        "subscribe" => {
            let with =
                |sign| rest.iter().filter_map(move |w: &&str| w.strip_prefix(sign)).map(str::to_string);
            let (add, remove) = (with('+').map(|f| (f, 1)).collect(), with('-').collect());
            Item::Subscriptions { client: client(), epoch: number(1), add, remove }
        }
        "touch" => Item::Touch { client: client(), epoch: number(1), shard: number(2) as u16 },
        "release" => Item::Release(source(rest[0], 2, false)),
        other => panic!("{other}"),
    };
    submit(s, stamp, &Submission { streams: Vec::new(), makers: Vec::new(), items: vec![item] }, out);
}

fn publish(s: &mut Shard, stamp: i64, rest: &[&str], out: &mut String) {
    let mut streams = Vec::new();
    let mut readings = Vec::new();
    for word in rest.iter().take_while(|w| **w != "by") {
        let (of, mut what) = word.split_once('=').unwrap();
        let (device, stream) = of.split_once('/').unwrap();
        let mut tail = |sign: char| {
            let (head, tail) = what.split_once(sign)?;
            what = head;
            Some(tail.parse::<i64>().unwrap())
        };
        let (boot, seq, time) = (tail('~'), tail('#'), tail('@'));
        let found = streams.iter().position(|n| *n == name(device, stream));
        let stream_at = found.unwrap_or_else(|| {
            streams.push(name(device, stream));
            streams.len() - 1
        });
        readings.push(Reading {
            stream: stream_at as u32,
            time: time.map(EpochMs),
            value: what.parse().unwrap(),
            seq: seq.map(|n| n as u64),
            boot: boot.map(|n| n as u64),
        });
    }
    let by = rest.iter().position(|w| *w == "by").map(|at| &rest[at + 1..]);
    let source = by.map(|by| source(by[0], if by.contains(&"qos2") { 2 } else { 1 }, by.contains(&"dup")));
    let items = vec![Item::Publish(PublishItem { source, readings })];
    submit(s, stamp, &Submission { streams, makers: Vec::new(), items }, out);
}

fn submit(s: &mut Shard, stamp: i64, submission: &Submission, out: &mut String) {
    let (outcomes, applied) = s.submit(stamp, submission);
    for outcome in outcomes {
        match outcome {
            ItemOutcome::Done => writeln!(out, "done"),
            ItemOutcome::Judged(Judged { counted, recognised, set_aside }) => {
                write!(out, "{counted} counted").unwrap();
                if recognised > 0 {
                    write!(out, ", {recognised} recognised").unwrap();
                }
                for s in set_aside {
                    write!(out, ", {} set aside: {}", s.reading, s.reason).unwrap();
                }
                writeln!(out)
            }
            ItemOutcome::Refused(why) => writeln!(out, "refused: {why}"),
            ItemOutcome::Connected(c) => {
                let filters: Vec<_> = c.subscriptions.iter().map(|(f, _)| f.as_str()).collect();
                let (i, e, p, t) = (c.instance, c.epoch, c.present, &c.touched);
                writeln!(
                    out,
                    "connected: instance {i}, epoch {e}, present {p}, filters {filters:?}, touched {t:?}"
                )
                .and_then(|()| match c.will {
                    Some(will) => writeln!(out, "first the will of epoch {}", will.epoch),
                    None => Ok(()),
                })
            }
            ItemOutcome::WillDue(will) => writeln!(out, "its will is due: epoch {}", will.epoch),
            other => writeln!(out, "{other:?}"),
        }
        .unwrap();
    }
    show(s, &applied, out);
}

fn show(s: &mut Shard, applied: &Applied, out: &mut String) {
    for e in &applied.evicted {
        let (c, g, n, at) = (&e.client, e.at.gateway, e.connection, e.epoch);
        writeln!(out, "evicted: {c}, {g}.{} conn={n}, epoch {at}", e.at.start).unwrap();
    }
    let c = &applied.counters;
    let counters = [
        ("late", c.late),
        ("future", c.future),
        ("recognised", c.recognised),
        ("closed", c.closed),
        ("forced", c.forced),
        ("sessions expired", c.sessions_expired),
    ];
    for (name, n) in counters.iter().filter(|(_, n)| *n > 0) {
        writeln!(out, "{n} {name}").unwrap();
    }
    for b in &applied.batches {
        writeln!(out, "batch {}", b.seq).unwrap();
        let batch = Batch::decode(&b.bytes).unwrap();
        for p in &batch.parts {
            let (of, a, width) = (&batch.streams[p.stream as usize], &p.aggregate, p.width_ms);
            let (start, wm) = (p.start.0, p.watermark.0);
            let end = start + i64::from(width);
            write!(out, "  {}/{} {start}..{end}: {} sum {}", of.device, of.stream, a.count, a.sum().unwrap())
                .unwrap();
            write!(out, " min {} max {} first {}@{}", a.min, a.max, a.first.value, a.first.time.0).unwrap();
            writeln!(out, " last {}@{} late {} watermark {wm}", a.last.value, a.last.time.0, p.late).unwrap();
        }
    }
    if let Some(through) = applied.released {
        writeln!(out, "released {through}").unwrap();
    }
    for will in s.machine.orphaned_wills() {
        writeln!(out, "for the leader to publish: {} epoch {}", will.client, will.epoch).unwrap();
    }
    for origin in &applied.returned {
        writeln!(out, "{}.{} is back", origin.gateway, origin.start).unwrap();
    }
    if let Some(due) = s.machine.next_tick_due() {
        writeln!(out, "tick due at {}", due.0).unwrap();
    }
}

fn origin(word: &str) -> Origin {
    let (gateway, start) = word.strip_prefix('g').unwrap().split_once('.').unwrap();
    Origin { gateway: GatewayId(gateway.parse().unwrap()), start: start.parse().unwrap() }
}

fn source(word: &str, qos: u8, dup: bool) -> Source {
    let fields: Vec<&str> = word.split(':').collect();
    let number = |i: usize| fields[i].parse::<u64>().unwrap();
    let client = fields[0].to_string();
    let (instance, epoch, packet_id, hash) = (number(1), number(2), number(3) as u16, number(4) << 32);
    Source { client, instance, epoch, packet_id, qos, dup, hash }
}
