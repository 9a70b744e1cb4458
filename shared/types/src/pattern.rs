//! Names and patterns of names: `press-7` is one name, `press-*` all that begin so.
//!
//! `*` stands for any characters, also none; `\*` for the character itself. Everything else is taken literally, and upper
//! and lower case differ.
//!
//! Limits: a pattern has at most [`MAX_STARS_ENTRIES`] stars and [`MAX_PATTERN_BYTES`] bytes, so that none is costly to match; the
//! text of a name has at most [`MAX_TEXT_BYTES`].

use crate::ids::MAX_NAME_BYTES;

/// How many stars a pattern has at most.
pub const MAX_STARS_ENTRIES: usize = 4;

/// How long a pattern with stars is at most.
pub const MAX_PATTERN_BYTES: usize = 256;

/// How long the text of a name or a pattern is at most: a name of which each character is escaped.
pub const MAX_TEXT_BYTES: usize = 2 * MAX_NAME_BYTES;

/// A name, or a pattern of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What stands between the stars; one piece is a name.
    pieces: Vec<String>,
}

impl Pattern {
    /// Reads it from outside.
    ///
    /// # Errors
    /// Says which limit is passed.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(format!("has more than {MAX_TEXT_BYTES} bytes, which no name has"));
        }
        let pattern = Self::read(text);
        if pattern.pieces.len() > MAX_STARS_ENTRIES + 1 {
            return Err(format!("has more than {MAX_STARS_ENTRIES} `*`"));
        }
        if pattern.pieces.len() > 1 && text.len() > MAX_PATTERN_BYTES {
            return Err(format!("is a pattern of more than {MAX_PATTERN_BYTES} bytes"));
        }
        Ok(pattern)
    }

    /// Reads it, however long it is.
    pub fn read(text: &str) -> Self {
        let (mut pieces, mut piece) = (vec![], String::new());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.peek() {
                    Some(next @ ('*' | '\\')) => {
                        piece.push(*next);
                        chars.next();
                    }
                    _ => piece.push(c),
                },
                '*' => pieces.push(std::mem::take(&mut piece)),
                c => piece.push(c),
            }
        }
        pieces.push(piece);
        Self { pieces }
    }

    /// This one name, whatever is in it.
    pub fn exactly(name: &str) -> Self {
        Self { pieces: vec![name.to_string()] }
    }

    /// The one name that it stands for, if it has no star.
    pub fn exact(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [name] => Some(name),
            _ => None,
        }
    }

    /// What every name begins with that it stands for.
    pub fn prefix(&self) -> &str {
        self.pieces.first().map_or("", String::as_str)
    }

    /// Whether what begins with [`Pattern::prefix`] is all that it stands for.
    pub fn is_prefix(&self) -> bool {
        self.pieces.iter().skip(1).all(String::is_empty) && self.pieces.len() > 1
    }

    /// The first name after all that begin with [`Pattern::prefix`]; nothing if there is none.
    pub fn after_prefix(&self) -> Option<String> {
        let mut chars: Vec<char> = self.prefix().chars().collect();
        while let Some(last) = chars.pop() {
            // Above the last character before the gap that UTF-16 leaves comes the first one behind it.
            let next = if last == '\u{d7ff}' { Some('\u{e000}') } else { char::from_u32(last as u32 + 1) };
            if let Some(next) = next {
                chars.push(next);
                return Some(chars.into_iter().collect());
            }
        }
        None
    }

    /// As SQLite's GLOB wants it.
    pub fn glob(&self) -> String {
        self.translate("*", |c| matches!(c, '*' | '?' | '['), |c| format!("[{c}]"))
    }

    /// As LIKE wants it, with `\` before what is meant literally.
    pub fn like(&self) -> String {
        self.translate("%", |c| matches!(c, '%' | '_' | '\\'), |c| format!("\\{c}"))
    }

    fn translate(&self, star: &str, special: fn(char) -> bool, literal: fn(char) -> String) -> String {
        let piece =
            |p: &String| p.chars().map(|c| if special(c) { literal(c) } else { c.to_string() }).collect();
        self.pieces.iter().map(piece).collect::<Vec<String>>().join(star)
    }

    /// Whether it stands for every name that another stands for. What the other's stars stand for can only be matched by stars,
    /// so one character that neither has in it does for all.
    pub fn covers(&self, other: &Self) -> bool {
        let pieces = || self.pieces.iter().chain(&other.pieces);
        let fresh = ('\0'..).find(|c| !pieces().any(|piece| piece.contains(*c)));
        fresh.is_some_and(|fresh| self.matches(&other.pieces.join(fresh.encode_utf8(&mut [0; 4]))))
    }

    /// Whether it stands for this name.
    pub fn matches(&self, name: &str) -> bool {
        let [first, middle @ .., last] = self.pieces.as_slice() else {
            return self.exact() == Some(name);
        };
        let Some(mut rest) = name.strip_prefix(first.as_str()) else { return false };
        for piece in middle {
            let Some(at) = rest.find(piece.as_str()) else { return false };
            rest = rest.get(at + piece.len()..).unwrap_or_default();
        }
        rest.ends_with(last.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn stars_stand_for_anything_and_all_else_for_itself() {
        for (text, yes, no) in [
            ("press-7", vec!["press-7"], vec!["press-77", "Press-7", ""]),
            ("press-*", vec!["press-", "press-7"], vec!["press", "xpress-7"]),
            ("*", vec!["", "a", "*"], vec![]),
            ("*-7", vec!["-7", "press-7", "a-7-7"], vec!["press-7x"]),
            ("a*b*c", vec!["abc", "axbxc", "abbcc"], vec!["acb", "ab", "abcd"]),
            ("ab*ba", vec!["abba", "abxba"], vec!["aba"]),
            (r"a\*", vec!["a*"], vec!["ab", r"a\*"]),
            (r"a\b", vec![r"a\b"], vec!["ab"]),
            (r"a\\*", vec![r"a\", r"a\b"], vec!["a*"]),
            ("ä*", vec!["ä", "äö"], vec!["a"]),
        ] {
            let p = pattern(text);
            yes.iter().for_each(|name| assert!(p.matches(name), "{text} {name}"));
            no.iter().for_each(|name| assert!(!p.matches(name), "{text} {name}"));
        }
    }

    #[test]
    fn a_pattern_covers_what_stands_for_no_other_names() {
        for (wide, narrow) in
            [("*", "a*b"), ("a*", "ab"), ("a*", "a*c*"), ("*b*", "abc"), ("a*", "a*"), ("a*", "a**")]
        {
            assert!(pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
        for (wide, narrow) in
            [("a*", "*"), ("a", "a*"), ("a*b", "a*"), ("*a*", "*"), ("a*a", "a"), ("ab*", "a*b*")]
        {
            assert!(!pattern(wide).covers(&pattern(narrow)), "{wide} {narrow}");
        }
    }

    #[test]
    fn what_a_database_is_asked_for() {
        let p = pattern("press-*x");
        assert_eq!((p.exact(), p.prefix(), p.is_prefix()), (None, "press-", false));
        assert_eq!(p.after_prefix().as_deref(), Some("press."));
        assert!(pattern("press-*").is_prefix() && !pattern("press-").is_prefix());
        assert_eq!(pattern("\u{10ffff}*").after_prefix(), None);
        assert_eq!(pattern("a\u{10ffff}*").after_prefix().as_deref(), Some("b"));
        assert_eq!(pattern("\u{d7ff}*").after_prefix().as_deref(), Some("\u{e000}"));
        assert_eq!(pattern(r"a[?\**").glob(), "a[[][?][*]*");
        assert_eq!(pattern(r"50%_\\*").like(), r"50\%\_\\%");
    }

    #[test]
    fn patterns_and_names_are_bounded() {
        assert!(Pattern::parse("*****").unwrap_err().contains('4'));
        assert!(Pattern::parse(&format!("{}*", "x".repeat(256))).unwrap_err().contains("256"));
        assert!(Pattern::parse(&"\\*".repeat(MAX_NAME_BYTES)).is_ok(), "a name of stars");
        assert!(Pattern::parse(&"x".repeat(MAX_TEXT_BYTES + 1)).unwrap_err().contains("512"));
    }
}
