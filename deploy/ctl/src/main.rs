//! `selvedge`: the operators' command.

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    match selvedge_ctl::run(std::env::args_os()) {
        Ok(said) => {
            // A reader such as `head` may close the pipe early, which is no error.
            let _ = std::io::stdout().lock().write_all(said.as_bytes());
            ExitCode::SUCCESS
        }
        Err(failure) => failure.exit(),
    }
}
