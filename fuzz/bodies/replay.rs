//! The kept inputs of a target, run by an ordinary test with the code that the fuzzer runs.

use std::path::Path;

/// Runs a target on everything in its corpus.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder =
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../fuzz/corpus").join(target);
    let listing = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = listing.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    for path in paths {
        println!("{}", path.display()); // shown when the test fails
        run(&std::fs::read(&path).unwrap());
    }
}
