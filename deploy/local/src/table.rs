//! The live table: redrawn in place on a terminal, one plain line at a time into a pipe.

use crate::faults::Done;
use crate::status::{Gateway, Node};
use firmware_sim::fleet::Progress;
use std::io::Write;

/// The width that is assumed when a terminal does not tell.
const DEFAULT_COLUMNS: usize = 80;

/// What the table shows.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What is going on, in a word or two.
    pub stage: String,
    pub seconds: u64,
    /// Readings acknowledged in the last second.
    pub acked_per_second: u64,
    /// The devices; nothing when there are none.
    pub devices: Option<Progress>,
    /// The gateways in order.
    pub gateways: Vec<Gateway>,
    pub node: Node,
    /// Changes of leadership so far.
    pub leader_changes: u64,
    /// What was done to gateways so far.
    pub faults: Done,
}

impl View {
    fn outbox(&self) -> (u64, u64) {
        let sum = |of: fn(&Gateway) -> u64| self.gateways.iter().map(of).sum();
        (sum(|g| g.outbox_batches), sum(|g| g.outbox_bytes))
    }

    /// The whole view as one line, for a pipe.
    pub fn line(&self) -> String {
        let leads: Vec<String> =
            self.gateways.iter().map(|g| if g.up { g.leading.to_string() } else { "down".into() }).collect();
        let (batches, bytes) = self.outbox();
        let devices = self.devices.map_or(String::new(), |d| {
            format!("  published {}  acked {}  waiting {}", d.published, d.acked, d.pending)
        });
        format!(
            "{:>5}s {:<9} {:>7} acked/s{devices}  windows {}  leads {}  outbox {batches} ({})  leader changes {}{}",
            self.seconds,
            self.stage,
            self.acked_per_second,
            self.node.windows,
            leads.join("/"),
            bytes_text(bytes),
            self.leader_changes,
            self.faults.text(),
        )
    }

    /// As a table no wider than `columns`.
    pub fn rows(&self, columns: usize) -> Vec<String> {
        let mut rows = vec![format!(
            "{} for {} s: {} readings acknowledged/s, {} windows confirmed",
            self.stage, self.seconds, self.acked_per_second, self.node.windows
        )];
        if let Some(d) = self.devices {
            rows.push(format!(
                "devices  {:>5}   published {}, acknowledged {}, waiting {}, sent again {}",
                d.devices, d.published, d.acked, d.pending, d.resends
            ));
        }
        rows.push("gateway  state   leads   outbox".to_string());
        for g in &self.gateways {
            let state = match (g.up, g.ready) {
                (false, _) => "down",
                (true, false) => "waits",
                (true, true) => "ready",
            };
            let outbox = format!("{} batches, {}", g.outbox_batches, bytes_text(g.outbox_bytes));
            let id = g.id.map_or("new".to_string(), |id| id.to_string());
            rows.push(format!("{id:>7}  {state:<6} {:>6}   {outbox}", g.leading));
        }
        let node = if self.node.up { "up" } else { "down" };
        rows.push(format!("node {node}   leader changes {} {}", self.leader_changes, self.faults.text()));
        rows.into_iter().map(|row| row.chars().take(columns).collect()).collect()
    }
}

fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} KiB", bytes / 1_024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

/// The output of the table: a terminal or a pipe.
#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    drawn: usize,
    broken: bool,
}

impl Screen {
    /// Standard output, whatever it is.
    pub fn new() -> Self {
        use std::io::IsTerminal;
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { terminal: std::io::stdout().is_terminal() && !dumb, drawn: 0, broken: false }
    }

    /// Shows the view in place of the last one.
    pub fn show(&mut self, view: &View) {
        let mut text = String::new();
        if self.terminal {
            let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
            let columns = size.map(|s| usize::from(s.ws_col)).filter(|c| *c > 0).unwrap_or(DEFAULT_COLUMNS);
            let rows = view.rows(columns);
            if self.drawn > 0 {
                text.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
            }
            self.drawn = rows.len();
            for row in rows {
                text.push_str(&row);
                text.push('\n');
            }
        } else {
            text = view.line() + "\n";
        }
        self.put(&text);
    }

    /// Prints text below the table, which stays as it is.
    pub fn say(&mut self, text: &str) {
        self.drawn = 0;
        self.put(&format!("{text}\n"));
    }

    /// A closed pipe does not end the run: the site continues until it is stopped in order.
    fn put(&mut self, text: &str) {
        if self.broken {
            return;
        }
        let mut out = std::io::stdout().lock();
        self.broken = out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            stage: "running".into(),
            seconds: 12,
            acked_per_second: 180,
            devices: Some(Progress { devices: 36, published: 2_000, acked: 1_990, ..Progress::default() }),
            gateways: vec![
                Gateway { up: true, ready: true, leading: 22, outbox_batches: 3, ..Gateway::default() },
                Gateway::default(),
            ],
            node: Node { up: true, windows: 77, missing: 0 },
            leader_changes: 4,
            faults: Done { kills: 1, ..Done::default() },
        }
    }

    #[test]
    fn a_pipe_gets_one_line_with_all_that_matters() {
        let line = view().line();
        for part in
            ["180 acked/s", "windows 77", "leads 22/down", "outbox 3 (0 B)", "leader changes 4", "kills 1"]
        {
            assert!(line.contains(part), "{line}");
        }
        assert!(!line.contains('\x1b') && !line.contains('\n'));
    }

    #[test]
    fn no_row_is_wider_than_the_terminal() {
        for columns in [1, 20, 60] {
            assert!(view().rows(columns).iter().all(|row| row.chars().count() <= columns));
        }
        assert_eq!(view().rows(200).len(), 6);
    }
}
