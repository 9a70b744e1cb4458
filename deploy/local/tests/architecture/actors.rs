//! Which files name the actors of a program: each its own, the one that wires them all, and the `mod.rs` of a folder in which
//! several make one part. The others hold recipients of messages.

use crate::modules::Sources;
use proc_macro2::{TokenStream, TokenTree};
use std::path::Path;

/// The words of each file, in order.
fn words(tokens: TokenStream, out: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => words(group.stream(), out),
            TokenTree::Ident(word) => out.push(word.to_string()),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// What names an actor and may not: `shard.rs names Switch, the actor of switch.rs`. `top` is the folder of all actors.
pub fn named_by_others(sources: &Sources, top: &Path, wiring: &Path) -> Vec<String> {
    let files = sources.iter().filter(|(file, _)| file.starts_with(top)).map(|(file, text)| {
        let tokens = text.parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut all = vec![];
        words(tokens, &mut all);
        (file, all)
    });
    let files: Vec<_> = files.collect();
    let mut wrong = vec![];
    for (own, declared) in &files {
        let part = own.parent().filter(|folder| *folder != top).map(|folder| folder.join("mod.rs"));
        for actor in declared.windows(4).filter(|w| w[0] == "impl" && w[1] == "Actor" && w[2] == "for") {
            for (file, words) in &files {
                let may = file == own || *file == wiring || part.as_deref() == Some(file.as_path());
                if !may && words.contains(&actor[3]) {
                    wrong.push(format!(
                        "{} names {}, the actor of {}",
                        file.display(),
                        actor[3],
                        own.display()
                    ));
                }
            }
        }
    }
    wrong
}
