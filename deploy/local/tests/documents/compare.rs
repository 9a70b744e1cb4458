//! Whether a program printed what a page shows. Pages show what a run printed, so numbers and times differ from those
//! of another run; everything else has to be the same: words, names, keys, their order.

/// Whether `printed` is what `shown` shows, where `...` stands for anything.
pub fn same(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (skeleton(shown), skeleton(printed));
    let mut parts = shown.split("...");
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Whether `shown` is a part of `printed`.
pub fn within(shown: &str, printed: &str) -> bool {
    same(&format!("...{shown}..."), printed)
}

/// The text with `0` for each number, and without blanks and rules: the widths of columns depend on the numbers, and pages break
/// long lines. Digits in a name (`p99`, `oven-01`) stay.
fn skeleton(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut skeleton = String::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        at += 1;
        if !c.is_ascii_digit() {
            if !c.is_whitespace() && c != '─' {
                skeleton.push(c);
            }
            continue;
        }
        let named = ends_a_name(&chars[..at - 1]);
        let start = at - 1;
        let more = |i: usize| chars.get(i).is_some_and(char::is_ascii_digit);
        while more(at) || chars.get(at) == Some(&'.') && more(at + 1) {
            at += 1;
        }
        if named {
            skeleton.extend(&chars[start..at]);
        } else {
            skeleton.push('0');
        }
    }
    // A time of a minute or more has two units, one of seconds has one.
    ["0d0h", "0h0m", "0m0s"].iter().fold(skeleton, |text, units| text.replace(units, "0s"))
}

/// Whether a digit that follows belongs to a name.
fn ends_a_name(before: &[char]) -> bool {
    match before {
        [.., digit, 'T'] if digit.is_ascii_digit() => false, // 2026-11-27T08:56:00Z
        [.., letter, '-'] => letter.is_alphabetic(),
        [.., last] => last.is_alphabetic() || *last == '_',
        [] => false,
    }
}

#[test]
fn numbers_may_differ_and_names_may_not() {
    for (shown, printed) in [
        ("oven-01 p99 12.5 at 2026-11-27T08:56:00.000Z", "oven-01 p99 9 at 2031-01-02T10:00:00.250Z"),
        ("{\"a\":1,\n\"b\":2}", "{\"a\":17,\"b\":2.25}"),
        ("up for 45s", "up for 1m 3s"),
        ("a ... d", "a b c d"),
        ("a ...", "a"),
        ("│ 1 │\n├───┤", "│ 1000 │\n├──────┤"),
    ] {
        assert!(same(shown, printed), "{shown}\n{printed}");
    }
    for (shown, printed) in [
        ("oven-01", "oven-02"),
        ("p99 1", "p90 1"),
        ("a 1", "a 1 b"),
        ("a ... d", "a b c"),
        ("b ...", "a b"),
        ("a: 1", "a: null"),
    ] {
        assert!(!same(shown, printed), "{shown}\n{printed}");
    }
    assert!(within("lost 0", "counted 5\nlost 0\nwindows 3") && !within("lost 0", "counted 5"));
}
