//! Which modules of a crate name which, read from its sources, and where that goes round in a circle; which types they show.
//!
//! The modules of each folder are looked at together: one of them names another when any file below it has a path
//! (`crate::...`, `super::...`, one that begins with an imported module; in code or in a macro's arguments) that leads
//! to the other or to anything below it. A name that a module passes on with `pub use` leads to where it comes from as
//! well. A folder and what lies in it are one thing here: a `mod.rs` holds what its files share, and they its parts.
//!
//! Left out: what is compiled for tests alone, and documentation.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module's place in its crate: `crate::api::live` is `[api, live]`.
type Place = Vec<String>;

/// The sources of a crate by their paths below `src`.
pub type Sources = BTreeMap<PathBuf, String>;

/// A circle: the modules of one folder that name each other, with one path for each step from module to module.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle {
    /// The folder, below `src`; empty for `src` itself.
    pub folder: String,
    /// The names of its modules.
    pub modules: Vec<String>,
    /// What makes it one: `live names sites: live.rs has crate::sites::Edge`.
    pub steps: Vec<String>,
}

/// What one module says.
#[derive(Debug, Default)]
struct Module {
    file: String,
    /// Paths that occur, as they are written, in modules of this file, with the place they are seen from.
    paths: Vec<Vec<String>>,
    /// Names that it imports, with their paths.
    imports: BTreeMap<String, Vec<String>>,
    /// Of what it passes on all.
    globs: Vec<Vec<String>>,
    /// What is declared in it.
    declared: BTreeSet<String>,
    /// Those types among it that are visible outside.
    public_types: BTreeSet<String>,
}

/// Reads all sources below a crate's `src`.
pub fn sources(folder: &Path) -> Sources {
    let (mut all, mut folders) = (Sources::new(), vec![folder.to_owned()]);
    while let Some(one) = folders.pop() {
        for entry in std::fs::read_dir(&one).unwrap_or_else(|e| panic!("{}: {e}", one.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(folder).unwrap().to_owned();
                all.insert(below, std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    all
}

/// The types of a crate that are visible outside their modules, each with the file that declares it.
pub fn public_types(sources: &Sources) -> Vec<(String, String)> {
    let modules = modules(sources);
    let of = |module: &Module| {
        module.public_types.iter().map(|name| (name.clone(), module.file.clone())).collect()
    };
    modules.values().flat_map::<Vec<_>, _>(of).collect()
}

/// All circles of a crate.
pub fn circles(sources: &Sources) -> Vec<Circle> {
    let modules = modules(sources);
    // By folder, and within it by module: which others are named, and by what.
    let mut named: BTreeMap<Place, BTreeMap<String, BTreeMap<String, String>>> = BTreeMap::new();
    for (from, module) in &modules {
        for path in &module.paths {
            for to in targets(&modules, from, path, 0) {
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if let (Some(one), Some(other)) = (from.get(common), to.get(common)) {
                    let of =
                        named.entry(from[..common].to_vec()).or_default().entry(one.clone()).or_default();
                    let step = || format!("{one} names {other}: {} has {}", module.file, path.join("::"));
                    of.entry(other.clone()).or_insert_with(step);
                }
            }
        }
    }
    let mut all = vec![];
    for (folder, named) in named {
        for modules in knots(&named) {
            let within = |name: &String| modules.contains(name);
            let steps = named.iter().filter(|(one, _)| within(one)).flat_map(|(_, others)| {
                others.iter().filter(|(other, _)| within(other)).map(|(_, step)| step.clone())
            });
            let steps = steps.collect();
            all.push(Circle { folder: folder.join("/"), modules, steps });
        }
    }
    all
}

/// Sets of more than one module of which each reaches each.
fn knots(named: &BTreeMap<String, BTreeMap<String, String>>) -> Vec<Vec<String>> {
    let reached = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(one) = next.pop() {
            next.extend(
                named.get(one).into_iter().flat_map(BTreeMap::keys).filter(|to| seen.insert((*to).clone())),
            );
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = named.keys().map(|one| (one, reached(one))).collect();
    let mut all: Vec<Vec<String>> = vec![];
    for (one, to) in &reach {
        let knot: Vec<String> =
            to.iter().filter(|to| reach.get(to).is_some_and(|of| of.contains(*one))).cloned().collect();
        if knot.len() > 1 && !all.contains(&knot) {
            all.push(knot);
        }
    }
    all
}

/// The modules that a path leads to: the one in whose namespace its name is looked up, and the one that it is passed on
/// from.
fn targets(
    modules: &BTreeMap<Place, Module>,
    from: &Place,
    path: &[String],
    depth: usize,
) -> BTreeSet<Place> {
    let mut all = BTreeSet::new();
    let Some((module, rest)) = resolve(modules, from, path) else { return all };
    let place = module.clone();
    all.insert(module);
    let (Some(name), Some(said)) = (rest.first(), modules.get(&place)) else { return all };
    if depth > 8 || said.declared.contains(name) {
        return all;
    }
    if let Some(passed_on) = said.imports.get(name) {
        all.extend(targets(modules, &place, passed_on, depth + 1));
        return all;
    }
    for glob in &said.globs {
        let Some((source, _)) = resolve(modules, &place, glob) else { continue };
        if modules.get(&source).is_some_and(|of| of.declared.contains(name) || of.imports.contains_key(name))
        {
            let there = [vec!["crate".to_string()], source, vec![name.clone()]].concat();
            all.extend(targets(modules, &place, &there, depth + 1));
        }
    }
    all
}

/// The innermost module of the crate that a path names, and what is left of it.
fn resolve<'a>(
    modules: &BTreeMap<Place, Module>,
    from: &Place,
    path: &'a [String],
) -> Option<(Place, &'a [String])> {
    let (mut place, mut rest) = (from.clone(), path);
    match path.first()?.as_str() {
        "crate" => (place, rest) = (vec![], &path[1..]),
        "self" => rest = &path[1..],
        "super" => {
            while rest.first().is_some_and(|first| first == "super") {
                place.pop()?;
                rest = &rest[1..];
            }
        }
        first => {
            // One that begins with an imported module, or with one below this.
            let child = [place.as_slice(), &[first.to_string()]].concat();
            if !modules.contains_key(&child) {
                let imported = modules.get(from)?.imports.get(first)?;
                if !imported.first().is_some_and(|first| ["crate", "self", "super"].contains(&first.as_str()))
                {
                    return None;
                }
                let (module, left) = resolve(modules, from, imported)?;
                if !left.is_empty() {
                    return None;
                }
                (place, rest) = (module, &path[1..]);
            }
        }
    }
    while let Some(first) = rest.first() {
        place.push(first.clone());
        if !modules.contains_key(&place) {
            place.pop();
            break;
        }
        rest = &rest[1..];
    }
    Some((place, rest))
}

/// All modules that are not of tests alone.
fn modules(sources: &Sources) -> BTreeMap<Place, Module> {
    let (mut all, mut of_tests) = (BTreeMap::new(), vec![]);
    for (file, text) in sources {
        let mut place: Place =
            file.with_extension("").iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let root = ["lib", "main"];
        if place
            .last()
            .is_some_and(|last| last == "mod" || (place.len() == 1 && root.contains(&last.as_str())))
        {
            place.pop();
        }
        let tokens: TokenStream = text.parse().unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let mut reading =
            Reading { file: file.display().to_string(), all: &mut all, of_tests: &mut of_tests };
        reading.module(place, tokens);
    }
    all.retain(|place, _| !of_tests.iter().any(|of_test: &Place| place.starts_with(of_test)));
    all
}

/// One file, while it is read.
struct Reading<'a> {
    file: String,
    all: &'a mut BTreeMap<Place, Module>,
    of_tests: &'a mut Vec<Place>,
}

impl Reading<'_> {
    fn module(&mut self, place: Place, tokens: TokenStream) {
        let mut module = self.all.remove(&place).unwrap_or_default();
        module.file = self.file.clone();
        self.tokens(&place, &mut module, tokens, true);
        self.all.insert(place, module);
    }

    /// Takes in what stands in a module, at its top or within one of its braces.
    fn tokens(&mut self, place: &Place, module: &mut Module, tokens: TokenStream, top: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let (mut at, mut public) = (0, false);
        while at < tokens.len() {
            let before = at;
            match &tokens[at] {
                TokenTree::Punct(sign) if sign.as_char() == '#' => at = self.attribute(place, &tokens, at),
                TokenTree::Ident(word) => match word.to_string().as_str() {
                    "use" => {
                        let end = end_of(&tokens, at, |token| is_sign(token, ';'));
                        for import in imported(&tokens[at + 1..end]) {
                            module.take(import, public);
                        }
                        at = end;
                    }
                    "mod" if top => {
                        let name = tokens.get(at + 1).map(ToString::to_string).unwrap_or_default();
                        if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                            let inner = [place.as_slice(), &[name]].concat();
                            self.module(inner, body.stream());
                        }
                        at += 3;
                    }
                    "pub" => {
                        public = true;
                        at += 1;
                        continue;
                    }
                    keyword => {
                        if top && DECLARES.contains(&keyword) {
                            module.declared.extend(tokens.get(at + 1).map(ToString::to_string));
                        }
                        if top && public && TYPES.contains(&keyword) {
                            module.public_types.extend(tokens.get(at + 1).map(ToString::to_string));
                        }
                        let path = path_at(&tokens, at);
                        at += 3 * path.len() - 2;
                        if path.len() > 1 {
                            module.paths.push(path);
                        }
                    }
                },
                TokenTree::Group(group) => {
                    self.tokens(place, module, group.stream(), false);
                    at += 1;
                    // That of `pub(crate)`.
                    if group.delimiter() == Delimiter::Parenthesis && public {
                        continue;
                    }
                }
                _ => at += 1,
            }
            public = false;
            assert!(at > before, "{}", self.file);
        }
    }

    /// Passes an attribute, and what it is for if that is for tests alone.
    fn attribute(&mut self, place: &Place, tokens: &[TokenTree], at: usize) -> usize {
        let Some(TokenTree::Group(said)) = tokens.get(at + 1) else { return at + 1 };
        let said: String = said.stream().to_string().split_whitespace().collect();
        if said != "cfg(test)" && !said.starts_with("cfg(all(test,") {
            return at + 2;
        }
        let mut item = at + 2;
        while tokens.get(item).is_some_and(|token| is_sign(token, '#')) {
            item += 2;
        }
        let is_word =
            |token: &TokenTree, word: &str| matches!(token, TokenTree::Ident(ident) if ident == word);
        let import = tokens.get(item).is_some_and(|token| is_word(token, "use"));
        let end = end_of(tokens, item, |token| {
            let body = matches!(token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
            is_sign(token, ';') || (body && !import)
        });
        let module = end_of(tokens, item, |token| is_word(token, "mod"));
        if module < end {
            self.of_tests.push([place.as_slice(), &[tokens[module + 1].to_string()]].concat());
        }
        end + 1
    }
}

impl Module {
    /// Takes in an import: its name here, or `*`, and its path.
    fn take(&mut self, (name, path): (String, Vec<String>), public: bool) {
        if name == "*" {
            if public {
                self.globs.push(path.clone());
            }
        } else if name != "_" {
            self.imports.insert(name, path.clone());
        }
        self.paths.push(path);
    }
}

/// Words before the name of a type.
const TYPES: [&str; 5] = ["struct", "enum", "union", "trait", "type"];

/// Words before the name of what is declared.
const DECLARES: [&str; 9] = ["struct", "enum", "union", "fn", "trait", "type", "const", "static", "mod"];

fn is_sign(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

/// The place of the first such token from there on; the end if there is none.
fn end_of(tokens: &[TokenTree], from: usize, is_end: impl Fn(&TokenTree) -> bool) -> usize {
    (from..tokens.len()).find(|at| is_end(&tokens[*at])).unwrap_or(tokens.len())
}

/// The path that begins at a word: it alone, or several with `::` between.
fn path_at(tokens: &[TokenTree], at: usize) -> Vec<String> {
    let mut path = vec![tokens[at].to_string()];
    let mut next = at + 1;
    while let [colon, other, TokenTree::Ident(word), ..] = &tokens[next.min(tokens.len())..]
        && is_sign(colon, ':')
        && is_sign(other, ':')
    {
        path.push(word.to_string());
        next += 3;
    }
    path
}

/// What a `use` imports, without that word and its semicolon: the names, and their paths.
fn imported(tokens: &[TokenTree]) -> Vec<(String, Vec<String>)> {
    let (mut all, mut path, mut name) = (vec![], vec![], None);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Ident(word) if word == "as" => name = tokens.get(at + 1).map(ToString::to_string),
            TokenTree::Ident(word) if name.is_none() => path.push(word.to_string()),
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for one in inner.split(|token| is_sign(token, ',')).filter(|one| !one.is_empty()) {
                    all.extend(imported(one).into_iter().map(|(name, inner)| {
                        let inner = if inner == ["self"] { vec![] } else { inner };
                        let whole = [path.clone(), inner].concat();
                        (if name == "self" { whole.last().cloned().unwrap_or(name) } else { name }, whole)
                    }));
                }
                return all;
            }
            token if is_sign(token, '*') => name = Some("*".to_string()),
            _ => {}
        }
    }
    if let Some(last) = path.last().cloned() {
        all.push((name.unwrap_or(last), path));
    }
    all
}
