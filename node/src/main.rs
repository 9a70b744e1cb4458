//! The program `selvedge-node`.

use std::process::ExitCode;

fn main() -> ExitCode {
    selvedge_node::run(std::env::args_os())
}
