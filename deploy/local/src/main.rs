//! `cargo run --release`: a whole site on this machine.

mod account;
mod faults;
mod folder;
mod growth;
mod http;
mod net;
mod options;
mod ports;
mod process;
mod programs;
mod run;
mod settings;
mod site;
mod status;
mod table;

use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == selvedge_node::SQL_WORKER) {
        return selvedge_node::run(arguments);
    }
    let program = arguments.get(1).and_then(|first| programs::Program::from_argument(first));
    if let Some(program) = program {
        let own = arguments.iter().cloned().enumerate().filter(|(i, _)| *i != 1).map(|(_, a)| a);
        return program.run(own.collect());
    }
    let options = options::Options::parse_from(&arguments);
    // Secrets, data and logs are nobody else's business.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(why) => {
            eprintln!("selvedge-local: no runtime: {why}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(whole(&options, &arguments))
}

async fn whole(options: &options::Options, arguments: &[OsString]) -> ExitCode {
    let (asked, interrupt) = watch::channel(0u32);
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    for kind in signals {
        let asked = asked.clone();
        match signal(kind) {
            Ok(mut signal) => {
                tokio::spawn(async move {
                    while signal.recv().await.is_some() {
                        asked.send_modify(|times| *times += 1);
                    }
                });
            }
            Err(why) => {
                eprintln!("selvedge-local: can't watch for signals: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    if options.net.is_some() {
        net::end_with_parent();
    } else if options.cut_every.is_some() {
        return net::within(options.boxes(), arguments, interrupt).await.unwrap_or_else(|why| {
            eprintln!("selvedge-local: {why}");
            ExitCode::FAILURE
        });
    }
    match run::run(options, interrupt).await {
        Err(why) => {
            eprintln!("selvedge-local: {why}");
            ExitCode::FAILURE
        }
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(outcome)) => {
            let mut screen = table::Screen::new();
            screen.say(&format!("\n{}", outcome.text()));
            if options.json {
                screen.say(&outcome.json());
            }
            if outcome.reckoning.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}
