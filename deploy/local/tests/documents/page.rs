//! The examples of a Markdown page: its code blocks, cut into commands and what they print.

/// A command that a page shows, with what it prints there.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The page and the line.
    pub place: String,
    /// One line; a block of another language than `console` is one example, whose command is the language.
    pub command: String,
    pub shown: String,
}

/// Blocks of these languages hold nothing that could be run.
const PROSE: [&str; 2] = ["text", "markdown"];

/// # Errors
/// Names the blocks that no test can judge: without a language, or a `console` block without a command.
pub fn examples(page: &str, text: &str) -> Result<Vec<Example>, String> {
    let mut found: Vec<Example> = Vec::new();
    let mut language: Option<&str> = None;
    let mut continued = false;
    for (line, number) in text.lines().zip(1..) {
        let place = format!("{page}:{number}");
        match (line.trim_start().strip_prefix("```"), language) {
            (Some(name), None) => {
                language = Some(name);
                if name.is_empty() {
                    return Err(format!("{place}: say what this block is: console, text, toml, ..."));
                }
                if name != "console" && !PROSE.contains(&name) {
                    found.push(Example { place, command: name.to_string(), shown: String::new() });
                }
            }
            (Some(_), Some(_)) => language = None,
            (None, Some("console")) => {
                let last = found.last_mut();
                if let Some(command) = line.strip_prefix("$ ") {
                    found.push(Example { place, command: command.to_string(), shown: String::new() });
                } else if let (true, Some(last)) = (continued, last) {
                    last.command = format!("{}{}", last.command.trim_end_matches('\\'), line.trim_start());
                } else {
                    let of_this_page = found.last_mut().filter(|last| last.command != "toml");
                    let last = of_this_page.ok_or(format!("{place}: a console block begins with `$ `"))?;
                    last.shown += &format!("{line}\n");
                    continue;
                }
                continued = line.ends_with('\\');
            }
            (None, Some(name)) if !PROSE.contains(&name) => {
                if let Some(last) = found.last_mut() {
                    last.shown += &format!("{line}\n");
                }
            }
            (None, _) => {}
        }
    }
    Ok(found)
}

/// The words of a command, as a shell would split them. Knows quotes and comments, and nothing else of a shell.
pub fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in command.chars() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, Some(open)) if c == open => quote = None,
            (' ', None) => words.extend(word.take()),
            ('#', None) if word.is_none() => break,
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn blocks_are_cut_into_commands_and_what_they_print() {
    let text = "Text.\n\n```console\n$ one 'a b' \\\n  --two   # why\n1\n\n2\n$ three\n```\n```text\nno\n```\n```toml\na = 1\n```\n";
    let found = examples("x.md", text).unwrap();
    let cut: Vec<_> =
        found.iter().map(|e| (e.place.as_str(), e.command.as_str(), e.shown.as_str())).collect();
    let expected = [
        ("x.md:4", "one 'a b' --two   # why", "1\n\n2\n"),
        ("x.md:9", "three", ""),
        ("x.md:14", "toml", "a = 1\n"),
    ];
    assert_eq!(cut, expected);
    assert_eq!(words(&found[0].command), ["one", "a b", "--two"]);
    for odd in ["```\na\n```\n", "```console\na\n```\n"] {
        assert!(examples("x.md", odd).is_err(), "{odd}");
    }
}
