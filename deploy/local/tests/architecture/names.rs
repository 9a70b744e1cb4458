//! Names of types that stand for two things where both can be imported: within one program, the crates in `shared` included.
//!
//! Every type counts that is visible outside its module, by `pub` or by `pub(...)`; private ones and those of tests do not.

use crate::modules::{Sources, public_types};
use std::collections::{BTreeMap, BTreeSet};

/// A name that more than one type of a program has.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Double {
    pub name: String,
    /// The files that declare a type of this name.
    pub files: Vec<String>,
}

/// All doubles of a workspace, whose crates are given by their folders. The crates of a program lie in one folder at the top;
/// those in `shared` belong to every program.
pub fn doubles(crates: &BTreeMap<String, Sources>) -> BTreeSet<Double> {
    let top = |folder: &str| folder.split('/').next().unwrap_or_default().to_string();
    let programs: BTreeSet<String> = crates.keys().map(|folder| top(folder)).collect();
    let mut all = BTreeSet::new();
    for program in &programs {
        let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (folder, sources) in crates {
            if [program.as_str(), "shared"].contains(&top(folder).as_str()) {
                for (name, file) in public_types(sources) {
                    declared.entry(name).or_default().push(format!("{folder}/src/{file}"));
                }
            }
        }
        let doubled = declared.into_iter().filter(|(_, files)| files.len() > 1);
        all.extend(doubled.map(|(name, files)| Double { name, files }));
    }
    all
}
