//! The program `selvedge-gateway`.

use std::process::ExitCode;

fn main() -> ExitCode {
    selvedge_gateway::run(std::env::args_os())
}
