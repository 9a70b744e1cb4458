//! The programs that this binary can become: it starts itself again with a hidden first argument, so that
//! one build makes everything and each gateway is still a process of its own.

use std::ffi::OsString;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

/// How long a program may take to end after its parent is gone.
const ORPHAN_PATIENCE_MS: u64 = 5_000;

/// Set in the environment of programs that the local run starts.
pub const PARENT_VARIABLE: &str = "SELVEDGE_LOCAL_PARENT";

/// A program within this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Gateway,
    Node,
}

impl Program {
    /// The hidden first argument.
    pub fn argument(self) -> &'static str {
        match self {
            Program::Gateway => "gateway",
            Program::Node => "node",
        }
    }

    /// Which program a first argument asks for, if any.
    pub fn from_argument(argument: &std::ffi::OsStr) -> Option<Self> {
        [Program::Gateway, Program::Node].into_iter().find(|p| argument == p.argument())
    }

    /// Becomes the program, with `arguments` as its command line (its name first). One that the local run started is asked
    /// to end when standard input closes, which it does when the parent has died in whatever way; one that a person
    /// started goes on without standard input.
    pub fn run(self, arguments: Vec<OsString>) -> ExitCode {
        if std::env::var_os(PARENT_VARIABLE).is_some() {
            std::thread::spawn(end_with_parent);
        }
        match self {
            Program::Gateway => selvedge_gateway::run(arguments),
            Program::Node => selvedge_node::run(arguments),
        }
    }
}

fn end_with_parent() {
    let mut nothing = [0; 64];
    let mut input = std::io::stdin().lock();
    while matches!(input.read(&mut nothing), Ok(n) if n > 0) {}
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    std::thread::sleep(Duration::from_millis(ORPHAN_PATIENCE_MS));
    std::process::exit(1);
}
