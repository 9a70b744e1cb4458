//! `selvedge`: the operators' command.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    match selvedge_ctl::run(std::env::args_os()) {
        Ok(said) => {
            let mut out = std::io::stdout().lock();
            match out.write_all(said.as_bytes()).and_then(|()| out.flush()) {
                // A reader such as `head` may close the pipe early, which is no error.
                Err(e) if e.kind() != ErrorKind::BrokenPipe => {
                    eprintln!("selvedge: can't write to the output: {e}");
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(failure) => failure.exit(),
    }
}
