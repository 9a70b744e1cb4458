//! Every console example of README and the book is run, or listed here with the reason why not: an example that is neither
//! fails. What a page shows is compared with what the command prints, apart from numbers and times.

mod compare;
mod page;
mod settings;
mod site;

#[path = "../../../../gateway/tests/gateways/client.rs"]
mod client;

use compare::{same, within};
use page::Example;
use site::Site;
use std::path::{Path, PathBuf};

/// Examples that this test leaves out: where they stand, how they begin, why.
const LEFT_OUT: [(&str, &str, &str); 21] = [
    ("CONTRIBUTING.md", "cargo build", "builds everything, as CI does"),
    ("CONTRIBUTING.md", "cargo test", "runs tests, as CI does"),
    ("CONTRIBUTING.md", "SELVEDGE_SIM_FOR=", "runs for minutes"),
    ("CONTRIBUTING.md", "SELVEDGE_SEED=", "runs tests, as CI does"),
    ("docs/guides/devices.md", "python", "needs paho-mqtt"),
    (
        "docs/guides/lake.md",
        "python",
        "needs duckdb and pandas; node/tests/lake.rs reads the same files with them where they are installed",
    ),
    ("docs/guides/grow.md", "selvedge gateway", "needs five gateways; gateway/tests/growth.rs does the same"),
    ("docs/guides/sql.md", "psql", "needs a PostgreSQL; node/tests/store runs there where one is installed"),
    ("docs/guides/sql.md", "python", "needs SQLAlchemy, pandas and duckdb"),
    ("docs/internals/benchmarks.md", "cargo", "runs for minutes, and builds for release"),
    ("docs/internals/benchmarks.md", "pip", "installs other brokers"),
    ("docs/internals/benchmarks.md", "deploy/bench", "runs for minutes, on a release build"),
    ("docs/internals/benchmarks.md", "target/release", "draws what the lines before it have measured"),
    ("docs/internals/benchmarks.md", "firmware-sim bench", "a load for a quiet machine"),
    (
        "docs/internals/decisions/0004-hash.md",
        "",
        "a measurement with crates that this project does not have",
    ),
    ("docs/internals/decisions/0013-node-roll-ups.md", "cargo", "runs for minutes, on a release build"),
    ("docs/internals/decisions/0016-node-stores.md", "cargo", "runs for minutes, on a release build"),
    ("docs/internals/proof.md", "cargo test", "runs tests, as CI does"),
    ("docs/internals/proof.md", "SELVEDGE_", "runs for minutes"),
    ("docs/reference/command-lines.md", "", "`.ci/docs --help-texts` compares these"),
    (
        "docs/start.md",
        "cargo run --release -- --for 170s --rate 20 --cut-every",
        "needs root and network namespaces; road.rs does the same",
    ),
];

/// Programs that are used only where they are installed.
const IF_INSTALLED: [&str; 1] = ["sqlite3"];

/// How long a run with faults lasts here, in place of the minutes that pages give it.
const SHORT: &str = "6s";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

fn examples() -> Vec<Example> {
    let mut found = vec![root().join("README.md"), root().join("CONTRIBUTING.md")];
    pages(&root().join("docs"), &mut found);
    found.sort();
    let cut = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        page::examples(&name, &std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|why| panic!("{why}"))
    };
    found.into_iter().flat_map(cut).collect()
}

fn is_left_out(example: &Example, (page, start, _): &(&str, &str, &str)) -> bool {
    example.place.split(':').next() == Some(page) && example.command.starts_with(start)
}

/// What is done with an example.
#[derive(Debug, PartialEq)]
enum Way {
    /// The site that the test starts prints this.
    Start,
    /// A site that runs to its end prints this.
    Run(Vec<String>),
    /// A command beside a running site.
    Beside,
    Settings,
    LeftOut,
}

fn way(example: &Example) -> Option<Way> {
    if LEFT_OUT.iter().any(|listed| is_left_out(example, listed)) {
        return Some(Way::LeftOut);
    }
    let words = page::words(&example.command);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["cargo", "run", "--release"] => Some(Way::Start),
        ["cargo", "run", "--release", "--", options @ ..] if options.contains(&"--for") => {
            let mut options: Vec<String> = options.iter().map(ToString::to_string).collect();
            let length = options.iter().position(|option| option == "--for")? + 1;
            *options.get_mut(length)? = SHORT.to_string();
            Some(Way::Run(options))
        }
        ["curl" | "mosquitto_pub" | "selvedge" | "selvedge-node" | "selvedge-gateway" | "sqlite3", ..] => {
            Some(Way::Beside)
        }
        ["toml"] => Some(Way::Settings),
        _ => None,
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn complaint(example: &Example, printed: &str) -> String {
    format!(
        "{}: {}\n--- the page shows\n{}--- it printed\n{printed}\n",
        example.place, example.command, example.shown
    )
}

#[test]
fn every_example_is_run_or_left_out_for_a_reason() {
    let examples = examples();
    let neither: Vec<_> = examples.iter().filter(|example| way(example).is_none()).collect();
    assert!(neither.is_empty(), "neither run nor left out: {neither:#?}");
    for listed in &LEFT_OUT {
        assert!(
            examples.iter().any(|example| is_left_out(example, listed)),
            "stands nowhere any more: {listed:?}"
        );
    }
}

#[test]
fn examples_beside_a_running_site_print_what_the_pages_show() {
    let site = Site::start(&["--set", "node.http.sql.enabled=true"]);
    let mut wrong = Vec::new();
    for example in examples() {
        let done = match way(&example) {
            Some(Way::Start) => {
                site::until_it_prints(|| Ok(site.printed()), |printed| within(&example.shown, printed))
            }
            Some(Way::Beside) => {
                let program = example.command.split(' ').next().unwrap_or_default();
                if IF_INSTALLED.contains(&program) && !is_installed(program) {
                    eprintln!("left out, there is no {program}: {}", example.place);
                    continue;
                }
                // A page that shows no output does not say that there is none.
                let enough = |printed: &str| example.shown.is_empty() || same(&example.shown, printed);
                site::until_it_prints(|| site.perform(&example.command), enough)
            }
            Some(Way::Settings) => site::check_settings("gateway", &example.shown).map(drop),
            _ => continue,
        };
        wrong.extend(done.err().map(|printed| complaint(&example, &printed)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn examples_that_break_a_site_end_as_the_pages_show() {
    let mut wrong = Vec::new();
    for example in examples() {
        let Some(Way::Run(options)) = way(&example) else { continue };
        match site::run_to_its_end(&options) {
            Ok(printed) if within(&example.shown, &printed) => {}
            Ok(printed) | Err(printed) => wrong.push(complaint(&example, &printed)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
