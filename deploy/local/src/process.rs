//! A process of the site: started, watched, killed on purpose, and never left behind.

use crate::programs::Program;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long a process may take to end after SIGTERM until it is killed.
pub const STOP_PATIENCE_MS: u64 = 10_000;

/// How much of a log is shown when its process failed.
const LOG_TAIL_LINES: usize = 8;

/// One process of the site.
#[derive(Debug)]
pub struct Process {
    /// What it is called in words.
    pub name: String,
    program: Program,
    config: PathBuf,
    log: PathBuf,
    /// The network namespace that it runs in, if not ours.
    namespace: Option<String>,
    /// Settings besides those in its file.
    settings: Vec<String>,
    child: Option<Child>,
}

impl Process {
    /// Starts a program with its settings file; what it prints is added to the log file.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(
        program: Program,
        name: String,
        config: PathBuf,
        log: PathBuf,
        namespace: Option<String>,
        settings: &[String],
    ) -> Result<Self, String> {
        let settings = settings.to_vec();
        let mut process = Self { name, program, config, log, namespace, settings, child: None };
        process.spawn()?;
        Ok(process)
    }

    /// Starts it (again).
    ///
    /// # Errors
    /// When it can't be started.
    pub fn spawn(&mut self) -> Result<(), String> {
        let failed = |e: std::io::Error| format!("{} can't be started: {e}", self.name);
        let log = File::options().create(true).append(true).open(&self.log).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        let own = std::env::current_exe().map_err(failed)?;
        // `ip netns exec` becomes the program, so the process is the gateway's own.
        let mut command = match &self.namespace {
            None => Command::new(own),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(own);
                command
            }
        };
        // Its settings are in the file; a variable that is meant for another site must not change them.
        let own = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("SELVEDGE_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| own(name)) {
            command.env_remove(name);
        }
        let child = command
            .env(crate::programs::PARENT_VARIABLE, "1")
            .arg(self.program.argument())
            .arg("--config")
            .arg(&self.config)
            .args(self.settings.iter().flat_map(|setting| ["--set", setting]))
            // It ends when this closes, so also when we are killed.
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            // Ctrl-C in a terminal is for us alone; we tell the others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        self.child = Some(child);
        Ok(())
    }

    /// Its exit status if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// Sends it a signal; one that is gone needs none.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id);
        if let Some(pid) = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }

    /// SIGTERM, and SIGKILL after a while.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT); // one that is stopped would not hear the other
        let Some(mut child) = self.child.take() else { return };
        // The pipe to it is closed as well, by waiting for it.
        if tokio::time::timeout(Duration::from_millis(STOP_PATIENCE_MS), child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    /// What it said last.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    lines.get(from..).unwrap_or_default().iter().map(|l| format!("  {l}\n")).collect()
}
