//! Tables for terminals, and the texts of their cells.

use serde_json::Value;

/// The text of a cell without a value.
const NOTHING: &str = "-";

/// A table with a row of titles. Columns are as wide as their widest cell, and columns of numbers are right-aligned.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row. Control characters are removed, since the texts come from gateways and could otherwise steer the
    /// terminal.
    pub fn row(&mut self, cells: Vec<String>) {
        let clean = |cell: String| cell.chars().filter(|c| !c.is_control()).collect();
        self.rows.push(cells.into_iter().map(clean).collect());
    }

    /// Renders the table, one line per row.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], at: usize| row.get(at).cloned().unwrap_or_default();
        let width = |at: usize| self.rows.iter().map(|r| cell(r, at).chars().count()).max().unwrap_or(0);
        // A number, which units may follow: `1,204`, `20 KiB`, `1m 5s`, but not the list `2 1 3`.
        let is_number = |text: &str| {
            let units = text.split(' ').skip(1).all(|word| word.ends_with(|c: char| c.is_ascii_alphabetic()));
            text == NOTHING || units && text.starts_with(|c: char| c.is_ascii_digit())
        };
        let right = |at: usize| {
            let mut cells = self.rows.iter().skip(1).map(|r| cell(r, at));
            cells.clone().all(|cell| is_number(&cell)) && cells.any(|cell| cell != NOTHING)
        };
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for at in 0..columns {
                let (text, width) = (cell(row, at), width(at));
                let gap = if at == 0 { "" } else { "  " };
                line += &match right(at) {
                    true => format!("{gap}{text:>width$}"),
                    false => format!("{gap}{text:<width$}"),
                };
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

/// A JSON number with commas between thousands; `-` if the value is no whole number.
pub fn number(value: &Value) -> String {
    let Some(number) = value.as_u64() else { return NOTHING.to_string() };
    let digits = number.to_string();
    let comma = |(at, digit): (usize, char)| {
        let left = digits.len() - at;
        let comma = (at > 0 && left.is_multiple_of(3)).then_some(',');
        comma.into_iter().chain(std::iter::once(digit))
    };
    digits.chars().enumerate().flat_map(comma).collect()
}

/// A JSON string; `-` if the value is none.
pub fn word(value: &Value) -> String {
    value.as_str().unwrap_or(NOTHING).to_string()
}

/// A JSON boolean as `yes` or `no`; `-` if the value is none.
pub fn yes_or_no(value: &Value) -> String {
    value.as_bool().map_or(NOTHING, |yes| if yes { "yes" } else { "no" }).to_string()
}

/// Milliseconds as a duration in its two largest units, such as `3d 4h`.
pub fn duration(value: &Value) -> String {
    let Some(ms) = value.as_u64() else { return NOTHING.to_string() };
    let seconds = ms / 1_000;
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, ..) => format!("{d}d {h}h"),
    }
}

/// A number of bytes, rounded down to a unit that leaves at most four digits, or to GiB.
pub fn bytes(value: &Value) -> String {
    match value.as_u64() {
        None => NOTHING.to_string(),
        Some(bytes @ 0..=9_999) => format!("{bytes} B"),
        Some(bytes @ 10_000..=9_999_999) => format!("{} KiB", bytes >> 10),
        Some(bytes @ 10_000_000..=9_999_999_999) => format!("{} MiB", bytes >> 20),
        Some(bytes) => format!("{} GiB", bytes >> 30),
    }
}

/// The items of a JSON array; none if the value is not an array.
pub fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A JSON array of numbers as a text such as `1, 3`.
pub fn numbers(value: &Value) -> String {
    items(value).iter().map(number).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["NAME", "COUNT", "WHY"]);
        table.row(vec!["a".into(), "7".into(), "-".into()]);
        assert_eq!(table.text(), "NAME  COUNT  WHY\na         7  -\n", "a column without a number is text");
        table.row(vec!["longer".into(), "1,234".into(), "evil\u{1b}[2J".into()]);
        assert_eq!(table.text(), "NAME    COUNT  WHY\na           7  -\nlonger  1,234  evil[2J\n");
    }

    #[test]
    fn numbers_and_times_are_words() {
        let n = |n: u64| number(&json!(n));
        assert_eq!(
            (n(0), n(999), n(1_000), n(12_345_678)),
            ("0".into(), "999".into(), "1,000".into(), "12,345,678".into())
        );
        let d = |ms: u64| duration(&json!(ms));
        assert_eq!([d(999), d(61_000), d(3_660_000), d(90_000_000)], ["0s", "1m 1s", "1h 1m", "1d 1h"]);
        let b = |n: u64| bytes(&json!(n));
        assert_eq!([b(9_999), b(10_240), b(u64::MAX)], ["9999 B", "10 KiB", "17179869183 GiB"]);
        assert_eq!(
            (number(&Value::Null), word(&json!(3)), yes_or_no(&json!(true))),
            ("-".into(), "-".into(), "yes".into())
        );
    }
}
