//! What holds of the workspace's structure, whatever the code does: crates build on each other downwards only, cores
//! list nothing that does IO, modules do not name each other in circles, actors do not name each other at all, and no two
//! types of a program have one name. Read from manifests and sources, so that it needs nothing else.

mod actors;
mod manifests;
mod modules;
mod names;

use actors::named_by_others;
use manifests::{Rule, Table, breaches, members, parse};
use modules::{Circle, Sources, circles, sources};
use names::{Double, doubles};
use std::path::{Path, PathBuf};

/// The crates, each after those that it builds on.
const RULES: [Rule; 17] = [
    Rule { folder: "shared/types", builds_on: &[], core: true },
    Rule { folder: "shared/guard", builds_on: &["selvedge-types"], core: false },
    Rule { folder: "shared/seal", builds_on: &["selvedge-types", "selvedge-guard"], core: false },
    Rule { folder: "shared/config", builds_on: &["selvedge-guard"], core: false },
    Rule { folder: "shared/http", builds_on: &["selvedge-types", "selvedge-guard"], core: false },
    Rule { folder: "shared/ports", builds_on: &[], core: false },
    Rule { folder: "shared/mqtt", builds_on: &["selvedge-types", "selvedge-guard"], core: false },
    Rule { folder: "shared/broker-client", builds_on: &["selvedge-mqtt"], core: false },
    Rule { folder: "gateway/paxos", builds_on: &["selvedge-types"], core: true },
    Rule { folder: "gateway/fabric", builds_on: &["selvedge-types", "selvedge-paxos"], core: true },
    Rule {
        folder: "gateway/log",
        builds_on: &["selvedge-types", "selvedge-paxos", "selvedge-fabric"],
        core: false,
    },
    Rule {
        folder: "gateway",
        builds_on: &[
            "selvedge-types",
            "selvedge-guard",
            "selvedge-seal",
            "selvedge-config",
            "selvedge-http",
            "selvedge-ports",
            "selvedge-mqtt",
            "selvedge-broker-client",
            "selvedge-paxos",
            "selvedge-fabric",
            "selvedge-log",
        ],
        core: false,
    },
    Rule { folder: "node/core", builds_on: &["selvedge-types", "selvedge-seal"], core: true },
    Rule {
        folder: "node",
        builds_on: &[
            "selvedge-types",
            "selvedge-guard",
            "selvedge-seal",
            "selvedge-config",
            "selvedge-http",
            "selvedge-ports",
            "selvedge-mqtt",
            "selvedge-broker-client",
            "selvedge-node-core",
        ],
        core: false,
    },
    Rule {
        folder: "firmware-sim",
        builds_on: &["selvedge-types", "selvedge-config", "selvedge-ports", "selvedge-mqtt"],
        core: false,
    },
    Rule {
        folder: "deploy/ctl",
        builds_on: &["selvedge-guard", "selvedge-ports", "selvedge-types"],
        core: false,
    },
    Rule {
        folder: "deploy/local",
        builds_on: &[
            "selvedge-types",
            "selvedge-ports",
            "selvedge-seal",
            "selvedge-fabric",
            "selvedge-gateway",
            "selvedge-node",
            "selvedge-ctl",
            "firmware-sim",
        ],
        core: false,
    },
];

/// A circle that is there today.
struct Known {
    /// The crate and the folder in it.
    folder: &'static str,
    modules: &'static [&'static str],
    /// What makes it one.
    why: &'static str,
}

/// The circles that are known. No other comes.
const KNOWN: [Known; 1] = [Known {
    folder: "gateway/paxos/src",
    modules: &["consensus", "repair"],
    why: "repair is a private impl block of the group in a file of its own: one type, and nothing between them to name",
}];

/// A name that two types of a program may have.
struct KnownDouble {
    name: &'static str,
    files: &'static [&'static str],
    /// Why both keep it.
    why: &'static str,
}

/// The names that two types have. No other comes.
const KNOWN_DOUBLES: [KnownDouble; 1] = [KnownDouble {
    name: "Log",
    files: &["gateway/log/src/log.rs", "gateway/paxos/src/log.rs"],
    why: "the log on disk is what its crate is for; the log of a Paxos group in memory never leaves the crate",
}];

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn manifest(folder: &str) -> Table {
    let path = top().join(folder).join("Cargo.toml");
    parse(&std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

#[test]
fn crates_build_on_each_other_downwards_and_cores_list_nothing_that_does_io() {
    let workspace = manifest("");
    let mut wrong: Vec<String> =
        RULES.iter().flat_map(|rule| breaches(rule, &manifest(rule.folder), &workspace)).collect();
    for member in members(&workspace) {
        if !RULES.iter().any(|rule| rule.folder == member) {
            wrong.push(format!("{member} has no rule: say in this file what it may build on"));
        }
    }
    for core in RULES.iter().filter(|rule| rule.core) {
        // Its clippy.toml is what keeps clocks and files of the standard library out.
        let kept = std::fs::read_to_string(top().join(core.folder).join("clippy.toml")).unwrap_or_default();
        for banned in
            ["std::time::Instant::now", "std::time::SystemTime::now", "std::fs::read", "std::env::var"]
        {
            if !kept.contains(&format!("\"{banned}\"")) {
                wrong.push(format!("{}/clippy.toml does not disallow {banned}", core.folder));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_do_not_name_each_other_in_circles() {
    let (mut wrong, mut found) = (vec![], vec![]);
    for rule in &RULES {
        for circle in circles(&sources(&top().join(rule.folder).join("src"))) {
            let folder = [rule.folder, "src", &circle.folder].join("/");
            let folder = folder.trim_end_matches('/').to_string();
            let known = KNOWN.iter().position(|known| {
                known.folder == folder
                    && circle.modules.iter().all(|one| known.modules.contains(&one.as_str()))
            });
            match known {
                Some(known) => found.push(known),
                None => wrong.push(told(&folder, &circle)),
            }
        }
    }
    for (at, known) in KNOWN.iter().enumerate() {
        if !found.contains(&at) {
            let Known { folder, modules, why } = known;
            wrong.push(format!("{folder} {modules:?} ({why}) is no circle any more: take it off the list"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn no_two_types_of_a_program_have_one_name() {
    let read = |rule: &Rule| (rule.folder.to_string(), sources(&top().join(rule.folder).join("src")));
    let found = doubles(&RULES.iter().map(read).collect());
    let is = |double: &Double, known: &KnownDouble| double.name == known.name && double.files == known.files;
    let mut wrong: Vec<String> = vec![];
    for double in found.iter().filter(|double| !KNOWN_DOUBLES.iter().any(|known| is(double, known))) {
        let Double { name, files } = double;
        wrong.push(format!("{name} is declared in {}: give each a name of its own", files.join(" and ")));
    }
    for known in KNOWN_DOUBLES.iter().filter(|known| !found.iter().any(|double| is(double, known))) {
        let KnownDouble { name, why, .. } = known;
        wrong.push(format!("{name} ({why}) is no name of these two types any more: take it off the list"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn actors_of_the_gateway_are_named_by_what_starts_them_alone() {
    let sources = sources(&top().join("gateway/src"));
    let wrong = named_by_others(&sources, Path::new("actors"), Path::new("actors/wiring.rs"));
    assert!(wrong.is_empty(), "give these recipients of messages:\n{}", wrong.join("\n"));
}

fn told(folder: &str, circle: &Circle) -> String {
    format!(
        "a circle of modules, {folder}/{{{}}}:\n  {}",
        circle.modules.join(","),
        circle.steps.join("\n  ")
    )
}

#[test]
fn a_forbidden_dependency_is_seen_by_whatever_name_it_is_listed() {
    let workspace = parse("[workspace.dependencies]\nrt = { version = '1', package = 'tokio' }");
    let core = Rule { folder: "made-up", builds_on: &["selvedge-types"], core: true };
    let seen = |text: &str| breaches(&core, &parse(text), &workspace).len();
    assert_eq!(seen("[dependencies]\nselvedge-types = { path = '../shared/types' }\nserde = '1'"), 0);
    for forbidden in [
        "[dependencies]\ntokio-util = '0.7'",
        "[dependencies]\nrt.workspace = true",
        "[dependencies]\nsettings = { package = 'config', version = '0.15' }",
        "[dev-dependencies.rusqlite]\nversion = '0.43'",
        "[build-dependencies]\nactix = '0.13'",
        "[target.'cfg(unix)'.dependencies]\nrustix = '1'",
        "[dependencies]\nselvedge-node = { path = '..' }",
    ] {
        assert_eq!(seen(forbidden), 1, "{forbidden}");
    }
}

#[test]
fn an_actor_is_seen_where_another_names_it() {
    let of = |files: &[(&str, &str)]| {
        let sources: Sources = files.iter().map(|(file, text)| (file.into(), text.to_string())).collect();
        named_by_others(&sources, Path::new("actors"), Path::new("actors/wiring.rs"))
    };
    let (a, b) = (("actors/a.rs", "impl Actor for A {}"), ("actors/part/b.rs", "impl Actor for B {}"));
    let starts = [("actors/wiring.rs", "A::new(); B::new()"), ("actors/part/mod.rs", "B::new()")];
    let sends = ("actors/c.rs", "/// To [`A`].\nstruct C { to: Recipient<Said> }");
    assert_eq!(of(&[a, b, starts[0], starts[1], sends, ("front.rs", "A")]), [""; 0]);
    for holds in ["struct C { to: Addr<A> }", "fn f() { todo!(Addr<A>) }", "use super::a::{A as Other};"] {
        assert_eq!(of(&[a, ("actors/c.rs", holds)]), ["actors/c.rs names A, the actor of actors/a.rs"]);
    }
    assert_eq!(of(&[b, ("actors/mod.rs", "B")]), ["actors/mod.rs names B, the actor of actors/part/b.rs"]);
}

#[test]
fn a_circle_is_seen_however_the_modules_name_each_other() {
    let of = |files: &[(&str, &str)]| {
        let sources: Sources = files.iter().map(|(file, text)| (file.into(), text.to_string())).collect();
        circles(&sources).into_iter().map(|circle| (circle.folder, circle.modules)).collect::<Vec<_>>()
    };
    let ab = |folder: &str| vec![(folder.to_string(), vec!["a".to_string(), "b".to_string()])];
    // By imports, by paths in code and in macros, by an imported module, by what another file passes on.
    let uses_b = ("a.rs", "use crate::b::B;");
    assert_eq!(of(&[uses_b, ("b.rs", "pub struct B; fn f() -> Option<crate::a::A> { None }")]), ab(""));
    assert_eq!(of(&[uses_b, ("b.rs", "fn f() { println!(\"{}\", super::a::A) }")]), ab(""));
    assert_eq!(of(&[uses_b, ("b.rs", "fn f() { use crate::{c::C, a::{self, A as Other}}; }")]), ab(""));
    let far = ("x/a.rs", "use crate::x; fn f() { x::b::g() }");
    assert_eq!(of(&[("lib.rs", "mod x;"), ("x/mod.rs", ""), far, ("x/b.rs", "use super::a::f;")]), ab("x"));
    let passes_on = ("x.rs", "mod a; mod b; pub use b::B; pub use a::*;");
    let (one, other) =
        (("x/a.rs", "use super::B; pub fn f() {}"), ("x/b.rs", "pub struct B; use crate::x::f;"));
    assert_eq!(of(&[passes_on, one, other]), ab("x"));
    // Files of two folders, of which each names the other.
    let (one, other) = (("a/deep.rs", "use crate::b::low::B;"), ("b/low.rs", "use crate::a::A;"));
    assert_eq!(of(&[("a/mod.rs", ""), ("b/mod.rs", ""), one, other]), ab(""));
    // Over a third.
    let three = [("a.rs", "use super::b::B;"), ("b.rs", "use super::c::C;"), ("c.rs", "use super::a::A;")];
    assert_eq!(of(&three), [(String::new(), vec!["a".to_string(), "b".to_string(), "c".to_string()])]);
    // What is none: one way alone, a folder's file and what lies in it, tests, and documentation.
    assert_eq!(of(&[uses_b, ("b.rs", "//! See [`crate::a`].\nfn f() { \"crate::a::A\"; }")]), []);
    assert_eq!(of(&[("a/mod.rs", "mod b; use b::B;"), ("a/b.rs", "use super::A; use super::*;")]), []);
    assert_eq!(of(&[uses_b, ("b.rs", "#[cfg(test)]\npub(crate) mod tests { use crate::a::A; }")]), []);
    assert_eq!(of(&[uses_b, ("b.rs", "#[cfg(test)]\nmod tests;"), ("b/tests.rs", "use crate::a::A;")]), []);
    assert_eq!(of(&[uses_b, ("b.rs", "#[cfg(test)]\nuse crate::{a::A, c::C};\nfn f() {}")]), []);
}

#[test]
fn a_name_of_two_types_is_seen_where_both_can_be_imported() {
    let of = |crates: &[(&str, &[(&str, &str)])]| {
        let sources = |files: &[(&str, &str)]| {
            files.iter().map(|(file, text)| (file.into(), text.to_string())).collect()
        };
        let crates = crates.iter().map(|(folder, files)| (folder.to_string(), sources(files))).collect();
        let files =
            |double: Double| double.files.into_iter().map(move |file| format!("{} {file}", double.name));
        doubles(&crates).into_iter().flat_map(files).collect::<Vec<_>>()
    };
    let (one, other) = (("a.rs", "pub struct T;"), ("b/mod.rs", "pub(super) enum T<'a> { V(&'a ()) }"));
    // In one crate, in two of a program, and in a shared one.
    assert_eq!(of(&[("node", &[one, other])]), ["T node/src/a.rs", "T node/src/b/mod.rs"]);
    assert_eq!(
        of(&[("node", &[one]), ("node/core", &[other])]),
        ["T node/src/a.rs", "T node/core/src/b/mod.rs"]
    );
    assert_eq!(
        of(&[("node", &[one]), ("shared/x", &[other])]),
        ["T node/src/a.rs", "T shared/x/src/b/mod.rs"]
    );
    assert_eq!(
        of(&[("shared/x", &[one]), ("shared/y", &[other])]),
        ["T shared/x/src/a.rs", "T shared/y/src/b/mod.rs"]
    );
    for text in [
        "pub trait T {}",
        "pub(crate) type T = u8;",
        "#[derive(Debug)]\npub union T {}",
        "pub mod m { pub enum T {} }",
    ] {
        assert_eq!(of(&[("node", &[one, ("c.rs", text)])]).len(), 2, "{text}");
    }
    // What is none: another program's, private types, those of tests and functions, variants, and what is passed on.
    assert_eq!(of(&[("node", &[one]), ("gateway", &[other])]), [""; 0]);
    for text in [
        "struct T;",
        "#[cfg(test)]\nmod tests { pub struct T; }",
        "pub fn f() { enum T {} }",
        "pub enum V { T }",
        "pub trait V { type T; }",
        "pub use super::a::T;",
        "pub const fn f() {} type T = u8;",
    ] {
        assert_eq!(of(&[("node", &[one, ("c.rs", text)])]), [""; 0], "{text}");
    }
}
