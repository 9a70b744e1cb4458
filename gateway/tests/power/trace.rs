//! What a process did to its files, as `strace -f -y -ttt -xx` recorded it: one line for each system call, or two when
//! a call of another thread came in between.

use std::collections::HashMap;
use std::path::Path;

/// The calls that are recorded; those with a question mark do not exist on every machine.
pub const CALLS: &str = "openat,?open,?creat,write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,\
    fallocate,ftruncate,?rename,renameat,renameat2,?unlink,unlinkat,?mkdir,mkdirat,?link,linkat,?symlink,symlinkat";

/// An act that changed a file or a folder, or made it durable. Names are paths.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    Create(String),
    Write(String, u64, Vec<u8>),
    /// Sets the file's length.
    Length(String, u64),
    /// Raises the file's length to at least this.
    Grow(String, u64),
    Rename(String, String),
    Remove(String),
    Folder(String),
    /// Everything written before the call of this number began will be durable when it ends.
    SyncBegins(usize, String),
    SyncEnds(usize, String),
}

/// An act, with a time (seconds since 1970) before which it had not happened.
#[derive(Debug, Clone)]
pub struct Event {
    pub time: f64,
    pub act: Act,
}

/// Reads several traces in order.
#[derive(Default)]
pub struct Reader {
    pub events: Vec<Event>,
    syncs: usize,
}

impl Reader {
    /// Reads the trace of one process, which was killed, before anything else touches its files: a call that was under
    /// way when it was killed may have taken effect, which only the files tell.
    ///
    /// # Panics
    /// At a line that it does not understand, because otherwise it could overlook a write.
    pub fn read(&mut self, trace: &str) {
        // The offset of the next write(2), by descriptor; and calls that have begun, by thread.
        let mut offsets: HashMap<u64, u64> = HashMap::new();
        let mut begun: HashMap<&str, (f64, String, Option<usize>)> = HashMap::new();
        let mut killed: Vec<(f64, String)> = Vec::new();
        for line in trace.lines() {
            let Some((thread, rest)) = line.split_once(' ') else { continue };
            let Some((time, call)) = rest.trim_start().split_once(' ') else { continue };
            let time: f64 = time.parse().unwrap_or_else(|_| panic!("no time in {line:.100}"));
            if call.starts_with("+++") || call.starts_with("---") {
                continue;
            }
            if let Some(call) = call.strip_suffix(" <unfinished ...>") {
                let sync = self.begin(time, call);
                begun.insert(thread, (time, call.to_string(), sync));
                continue;
            }
            let (call, sync) = match call.strip_prefix("<... ").and_then(|c| c.split_once(" resumed>")) {
                Some((_, rest)) => {
                    let (_, call, sync) = begun.remove(thread).unwrap_or_default();
                    (call + rest, sync)
                }
                None => (call.to_string(), self.begin(time, call)),
            };
            match call.rsplit_once(" = ") {
                Some((_, result)) if result.starts_with("-1") => {}
                Some((call, result)) if !result.starts_with('?') => {
                    self.end(time, call.trim_end(), result, sync, &mut offsets);
                }
                unfinished => {
                    killed.push((time, unfinished.map_or(call.as_str(), |(call, _)| call).to_string()))
                }
            }
        }
        killed.extend(begun.into_values().map(|(time, call, _)| (time, call)));
        killed.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        for (time, call) in killed {
            let known = self.events.len();
            let call = format!("{})", call.trim_end().trim_end_matches(')'));
            self.end(time, &call, "?", None, &mut offsets);
            let acts = self.events.split_off(known).into_iter();
            self.events.extend(acts.filter_map(|e| Some(Event { act: effect(e.act)?, ..e })));
        }
    }

    /// A call begins. Syncs are noted here, because they cover what was written by now.
    fn begin(&mut self, time: f64, call: &str) -> Option<usize> {
        if !call.starts_with("fsync(") && !call.starts_with("fdatasync(") {
            return None;
        }
        self.syncs += 1;
        let path = described(call.split_once('(').map_or("", |(_, args)| args)).1;
        self.events.push(Event { time, act: Act::SyncBegins(self.syncs, path) });
        Some(self.syncs)
    }

    fn end(
        &mut self,
        time: f64,
        call: &str,
        result: &str,
        sync: Option<usize>,
        offsets: &mut HashMap<u64, u64>,
    ) {
        let Some((name, args)) = call.strip_suffix(')').and_then(|c| c.split_once('(')) else {
            panic!("not understood: {call:.200}")
        };
        let args: Vec<&str> = args.split(", ").collect();
        let number = |i: usize| args[i].parse::<u64>().unwrap_or_else(|_| panic!("no number: {call:.200}"));
        let act = match name {
            "openat" | "open" | "creat" => {
                let at = usize::from(name == "openat");
                let flags = args.get(at + 1).copied().unwrap_or("O_CREAT|O_TRUNC");
                offsets.insert(described(result).0, 0);
                let path = text(args[at]);
                if flags.contains("O_TRUNC") && !flags.contains("O_CREAT") {
                    Act::Length(path, 0)
                } else if flags.contains("O_CREAT") {
                    // A file that exists is not created again, only emptied.
                    self.events.push(Event { time, act: Act::Create(path.clone()) });
                    if !flags.contains("O_TRUNC") {
                        return;
                    }
                    Act::Length(path, 0)
                } else {
                    return;
                }
            }
            "write" => {
                let (fd, path) = described(args[0]);
                let bytes = bytes(args[1]);
                let at = offsets.entry(fd).or_default();
                *at += bytes.len() as u64;
                Act::Write(path, *at - bytes.len() as u64, bytes)
            }
            "pwrite64" => Act::Write(described(args[0]).1, number(3), bytes(args[1])),
            "fsync" | "fdatasync" => Act::SyncEnds(sync.unwrap_or(0), described(args[0]).1),
            "fallocate" => Act::Grow(described(args[0]).1, number(2) + number(3)),
            "ftruncate" => Act::Length(described(args[0]).1, number(1)),
            "rename" => Act::Rename(text(args[0]), text(args[1])),
            "renameat" | "renameat2" => Act::Rename(text(args[1]), text(args[3])),
            "unlink" => Act::Remove(text(args[0])),
            "unlinkat" => Act::Remove(text(args[1])),
            "mkdir" => Act::Folder(text(args[0])),
            "mkdirat" => Act::Folder(text(args[1])),
            // Goes to sockets and the like; one to a file is an unknown call, which panics below.
            "writev" if !described(args[0]).1.starts_with('/') => return,
            _ => panic!("nothing is known of this call: {call:.200}"),
        };
        self.events.push(Event { time, act });
    }
}

/// What an act that was cut short did, as its file shows.
fn effect(act: Act) -> Option<Act> {
    let length = |path: &str| std::fs::metadata(path).ok().map(|found| found.len());
    match act {
        Act::Write(path, at, bytes) => {
            let found = std::fs::read(&path).ok()?;
            let end = found.len().min(at as usize + bytes.len());
            Some(Act::Write(path, at, found.get(at as usize..end)?.to_vec()))
        }
        Act::Create(path) => Path::new(&path).exists().then_some(Act::Create(path)),
        Act::Folder(path) => Path::new(&path).exists().then_some(Act::Folder(path)),
        Act::Length(path, to) => (length(&path) == Some(to)).then_some(Act::Length(path, to)),
        Act::Grow(path, to) => (length(&path) >= Some(to)).then_some(Act::Grow(path, to)),
        Act::Rename(from, to) => {
            (!Path::new(&from).exists() && Path::new(&to).exists()).then_some(Act::Rename(from, to))
        }
        Act::Remove(path) => (!Path::new(&path).exists()).then_some(Act::Remove(path)),
        Act::SyncBegins(..) | Act::SyncEnds(..) => None,
    }
}

/// The number and the path of `13<\x2f...>`.
fn described(fd: &str) -> (u64, String) {
    let (number, path) = fd.split_once('<').unwrap_or((fd, ""));
    let path = path.split('>').next().unwrap_or_default();
    (number.trim().parse().unwrap_or(u64::MAX), String::from_utf8_lossy(&unescape(path)).into_owned())
}

fn text(quoted: &str) -> String {
    String::from_utf8_lossy(&bytes(quoted)).into_owned()
}

fn bytes(quoted: &str) -> Vec<u8> {
    let inner = quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"'));
    unescape(inner.unwrap_or_else(|| panic!("cut short: {quoted:.100}")))
}

/// The bytes of `\x2f\x74`; any other text as it is.
fn unescape(text: &str) -> Vec<u8> {
    let Some(hex) = text.strip_prefix("\\x") else { return text.as_bytes().to_vec() };
    hex.split("\\x")
        .map(|byte| u8::from_str_radix(byte, 16).unwrap_or_else(|_| panic!("{text:.100}")))
        .collect()
}

mod tests {
    use super::*;

    #[test]
    fn calls_of_two_threads_are_told_apart() {
        let mut reader = Reader::default();
        reader.read(
            "7 1.5 openat(AT_FDCWD<\\x2f>, \"\\x2f\\x61\", O_RDWR|O_CREAT|O_TRUNC, 0666) = 3<\\x2f\\x61>\n\
             7 1.6 write(3<\\x2f\\x61>, \"\\x01\\x02\", 2) = 2\n\
             7 1.7 fdatasync(3<\\x2f\\x61> <unfinished ...>\n\
             8 1.8 pwrite64(3<\\x2f\\x61>, \"\\x09\", 1, 512) = 1\n\
             7 1.9 <... fdatasync resumed>) = 0\n\
             8 2.0 fsync(4<socket:[5]>) = -1 EINVAL (Invalid argument)\n\
             8 2.1 rename(\"\\x2f\\x61\", \"\\x2f\\x62\") = 0\n\
             8 2.2 write(3<\\x2f\\x62>, \"\\x03\", 1) = 1\n\
             7 2.3 fsync(3<\\x2f\\x62> <unfinished ...>\n\
             7 2.4 +++ killed by SIGKILL +++\n",
        );
        let acts: Vec<Act> = reader.events.into_iter().map(|e| e.act).collect();
        let (a, b) = ("/a".to_string(), "/b".to_string());
        assert_eq!(
            acts,
            [
                Act::Create(a.clone()),
                Act::Length(a.clone(), 0),
                Act::Write(a.clone(), 0, vec![1, 2]),
                Act::SyncBegins(1, a.clone()),
                Act::Write(a.clone(), 512, vec![9]),
                Act::SyncEnds(1, a.clone()),
                Act::SyncBegins(2, "socket:[5]".to_string()),
                Act::Rename(a, b.clone()),
                Act::Write(b.clone(), 2, vec![3]),
                Act::SyncBegins(3, b),
            ]
        );
    }

    #[test]
    fn what_a_killed_call_did_is_read_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
        let hex = |name: &str| path(name).bytes().map(|b| format!("\\x{b:02x}")).collect::<String>();
        std::fs::write(path("written"), [1, 2, 3]).unwrap();
        std::fs::write(path("new"), []).unwrap();
        let mut reader = Reader::default();
        reader.read(&format!(
            "1 1.1 pwrite64(3<{written}>, \"\\x02\\x03\\x04\", 3, 1 <unfinished ...>\n\
             2 1.2 pwrite64(3<{written}>, \"\\x09\", 1, 9) = ?\n\
             3 1.3 renameat(AT_FDCWD<\\x2f>, \"{old}\", AT_FDCWD<\\x2f>, \"{new}\" <unfinished ...>\n\
             4 1.4 unlink(\"{written}\" <unfinished ...>\n\
             5 1.5 fsync(3<{written}> <unfinished ...>\n\
             3 1.6 <... renameat resumed>) = ?\n\
             1 1.7 +++ killed by SIGKILL +++\n",
            written = hex("written"),
            old = hex("old"),
            new = hex("new"),
        ));
        let acts: Vec<Act> = reader.events.into_iter().map(|e| e.act).collect();
        assert_eq!(acts.len(), 3, "{acts:?}");
        assert!(acts.contains(&Act::SyncBegins(1, path("written"))));
        assert!(acts.contains(&Act::Write(path("written"), 1, vec![2, 3])), "as much as was written");
        assert!(acts.contains(&Act::Rename(path("old"), path("new"))));
    }
}
