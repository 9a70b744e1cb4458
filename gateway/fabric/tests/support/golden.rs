//! Golden scripts: text files in which each line `> COMMAND` is one step of a core, followed by its results.
//! Comments (`#`) and blank lines stay. `UPDATE_GOLDEN=1` writes the results anew; read them before you commit
//! them.

use std::fmt::Write;
use std::path::PathBuf;

/// A script whose run differs from the file.
pub struct Difference {
    pub path: PathBuf,
    pub played: String,
    /// The first line that differs, for people.
    pub line: String,
}

/// Plays every script of a core, each in a world of its own: `world()` returns the function that carries out its
/// commands.
pub fn check<World: FnMut(&str, &mut String)>(core: &str, world: impl Fn() -> World) {
    let mut differences = differences(core, world);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        for difference in differences.drain(..) {
            std::fs::write(&difference.path, difference.played).unwrap();
        }
    }
    let lines: Vec<_> = differences.into_iter().map(|d| d.line).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

/// The scripts of a core whose runs differ from their files.
pub fn differences<World: FnMut(&str, &mut String)>(
    core: &str,
    world: impl Fn() -> World,
) -> Vec<Difference> {
    let folder = format!("{}/tests/scripts/{core}", env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "{core} has no scripts");
    let difference = |path: PathBuf| {
        let written = std::fs::read_to_string(&path).unwrap();
        let played = play(&written, world());
        if played == written {
            return None;
        }
        let mut pairs = written.lines().zip(played.lines());
        let shorter = || written.lines().count().min(played.lines().count());
        let at = pairs.position(|(was, is)| was != is).unwrap_or_else(shorter);
        let (was, is) = (written.lines().nth(at), played.lines().nth(at));
        let line = format!("{}:{}: {is:?} instead of {was:?}", path.display(), at + 1);
        Some(Difference { path, played, line })
    };
    paths.into_iter().filter_map(difference).collect()
}

fn play(script: &str, mut world: impl FnMut(&str, &mut String)) -> String {
    let mut out = String::new();
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(out, "{line}").unwrap();
            world(command, &mut out);
        } else if line.starts_with('#') || line.is_empty() {
            writeln!(out, "{line}").unwrap();
        }
    }
    out
}
