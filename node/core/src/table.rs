//! Answers that are rows of columns, and the forms that they are written in: JSON, CSV (RFC 4180), JSON lines and Parquet.
//!
//! A text that a spreadsheet would take for a formula is written with an apostrophe before it in CSV: one that begins with `=`, `+`,
//! `-`, `@`, their full-width forms, a tab or a line break; and so is one that begins with an apostrophe, so that whoever takes one
//! away from texts that begin with one has all of them as they were. Numbers, times and flags stay as they are, and so do all texts in
//! the other forms.
//!
//! A name with a dot (`first.value`) is a field of an object in JSON, where those of an object stand together, and has an
//! underscore in CSV. What is not there is null in JSON and empty in CSV. A form that needs types, such as Parquet, finds them
//! in [`Field::kind`].

use selvedge_types::params::{BadParameter, bad, shown};
use selvedge_types::time::EpochMs;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use std::borrow::Cow;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    /// Whole numbers of 64 bits.
    Whole,
    /// Numbers of double precision.
    Real,
    Flag,
    Time,
}

/// A column of an answer, with its meaning for the API's description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub name: Cow<'static, str>,
    pub kind: ColumnKind,
    /// What that means, in few words.
    pub meaning: &'static str,
}

impl Field {
    /// A column whose meaning is not described.
    pub fn new(name: impl Into<Cow<'static, str>>, kind: ColumnKind) -> Self {
        Self { name: name.into(), kind, meaning: "" }
    }

    /// The same with its meaning.
    pub fn meaning(self, meaning: &'static str) -> Self {
        Self { meaning, ..self }
    }
}

/// A value of a table; borrows its text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    Null,
    Text(&'a str),
    /// 64 bits, written as 16 hexadecimal digits.
    Hex(u64),
    Whole(i64),
    /// A number; one that is not finite is written as none.
    Real(f64),
    Flag(bool),
    /// A point in time, written as RFC 3339.
    Time(EpochMs),
}

impl Cell<'_> {
    /// A count as a whole number, at most `i64::MAX`.
    pub fn count(n: u64) -> Self {
        Self::Whole(i64::try_from(n).unwrap_or(i64::MAX))
    }
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_none(),
            Self::Text(text) => to.serialize_str(text),
            Self::Hex(bits) => to.collect_str(&format_args!("{bits:016x}")),
            Self::Whole(n) => to.serialize_i64(*n),
            // What JSON has no word for becomes null.
            Self::Real(n) => to.serialize_f64(*n),
            Self::Flag(yes) => to.serialize_bool(*yes),
            Self::Time(at) => to.collect_str(at),
        }
    }
}

/// Rows of columns that every form of an answer is written from.
pub trait Table {
    /// The columns, in the order in which they are written.
    fn fields(&self) -> &[Field];
    /// How many rows there are.
    fn rows(&self) -> usize;
    /// A value; both count from 0.
    fn cell(&self, row: usize, field: usize) -> Cell<'_>;
}

/// The form of an answer of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One object that holds the rows.
    Json,
    /// RFC 4180, with a header line.
    Csv,
    /// An object a line.
    Lines,
    Parquet,
}

/// All forms: the name for `format`, and the media type for `Accept`.
const FORMS: [(Form, &str, &str); 4] = [
    (Form::Json, "json", "application/json"),
    (Form::Csv, "csv", "text/csv"),
    (Form::Lines, "ndjson", "application/x-ndjson"),
    (Form::Parquet, "parquet", "application/vnd.apache.parquet"),
];

impl Form {
    /// From the parameter `format`, or else from the media types that `Accept` names, the best first. Nothing if it
    /// names none that there is.
    ///
    /// # Errors
    /// When `format` is none.
    pub fn choose(format: Option<&str>, accepted: &[String]) -> Result<Option<Self>, BadParameter> {
        if let Some(name) = format {
            let found = FORMS.iter().find(|(_, known, _)| *known == name).map(|(form, _, _)| *form);
            let why = || bad("format", format!("{} is not one of: {}", shown(name), Self::names()));
            return found.ok_or_else(why).map(Some);
        }
        if accepted.is_empty() {
            return Ok(Some(Self::Json));
        }
        let of = |media: &String| {
            let media = media.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            let fits = |known: &str| match media.split_once('/') {
                Some(("*", "*")) => true,
                Some((group, "*")) => known.split('/').next() == Some(group),
                _ => known == media,
            };
            FORMS.iter().find(|(_, _, known)| fits(known)).map(|(form, _, _)| *form)
        };
        Ok(accepted.iter().find_map(of))
    }

    /// The names that `format` understands.
    pub fn names() -> String {
        FORMS.map(|(_, name, _)| name).join(", ")
    }

    /// The media types that there are.
    pub fn media_types() -> String {
        FORMS.map(|(_, _, media)| media).join(", ")
    }

    /// What an answer of this form says of itself.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Lines => "application/x-ndjson",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// A table's rows as a JSON array.
pub struct JsonRows<'a, T>(pub &'a T);

impl<T: Table> Serialize for JsonRows<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let shape = shape(self.0.fields());
        let mut all = to.serialize_seq(Some(self.0.rows()))?;
        for row in 0..self.0.rows() {
            all.serialize_element(&JsonRow { table: self.0, row, shape: &shape })?;
        }
        all.end()
    }
}

/// Names of a row's object, each with its one column or the columns of an object within it.
type Shape<'a> = Vec<(&'a str, Inner<'a>)>;

enum Inner<'a> {
    One(usize),
    Object(Vec<(&'a str, usize)>),
}

fn shape(fields: &[Field]) -> Shape<'_> {
    let mut shape: Shape<'_> = vec![];
    for (at, field) in fields.iter().enumerate() {
        match (field.name.split_once('.'), shape.last_mut()) {
            (Some((outer, inner)), Some((name, Inner::Object(all)))) if *name == outer => {
                all.push((inner, at));
            }
            (Some((outer, inner)), _) => shape.push((outer, Inner::Object(vec![(inner, at)]))),
            (None, _) => shape.push((&field.name, Inner::One(at))),
        }
    }
    shape
}

struct JsonRow<'a, T> {
    table: &'a T,
    row: usize,
    shape: &'a Shape<'a>,
}

impl<T: Table> Serialize for JsonRow<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut object = to.serialize_map(Some(self.shape.len()))?;
        for (name, inner) in self.shape {
            match inner {
                Inner::One(at) => object.serialize_entry(name, &self.table.cell(self.row, *at))?,
                Inner::Object(all) => {
                    let inner = JsonObject { table: self.table, row: self.row, all };
                    object.serialize_entry(name, &inner)?;
                }
            }
        }
        object.end()
    }
}

struct JsonObject<'a, T> {
    table: &'a T,
    row: usize,
    all: &'a [(&'a str, usize)],
}

impl<T: Table> Serialize for JsonObject<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.all.iter().map(|(name, at)| (*name, self.table.cell(self.row, *at))))
    }
}

/// The line of a table's names as CSV.
///
/// # Errors
/// Never, as memory takes everything.
pub fn csv_head(fields: &[Field]) -> Result<Vec<u8>, csv::Error> {
    csv_line(fields.iter().map(|field| field.name.replace('.', "_")))
}

/// A line of names as CSV, as they are.
///
/// # Errors
/// Never, as memory takes everything.
pub fn csv_line(names: impl Iterator<Item = String>) -> Result<Vec<u8>, csv::Error> {
    let mut out = csv_writer();
    out.write_record(names.map(|name| harmless(&name).into_owned().into_bytes()))?;
    out.into_inner().map_err(|e| e.into_error().into())
}

/// A table's rows as CSV.
///
/// # Errors
/// Never, as memory takes everything.
pub fn csv_rows(table: &impl Table) -> Result<Vec<u8>, csv::Error> {
    let mut out = csv_writer();
    for row in 0..table.rows() {
        for field in 0..table.fields().len() {
            match table.cell(row, field) {
                Cell::Null => out.write_field("")?,
                Cell::Text(text) => out.write_field(harmless(text).as_bytes())?,
                Cell::Hex(bits) => out.write_field(format!("{bits:016x}"))?,
                Cell::Whole(n) => out.write_field(n.to_string())?,
                // Unlike `{}` this has an exponent where it is shorter, and is read back exactly.
                Cell::Real(n) if n.is_finite() => out.write_field(format!("{n:?}"))?,
                Cell::Real(_) => out.write_field("")?,
                Cell::Flag(yes) => out.write_field(if yes { "true" } else { "false" })?,
                Cell::Time(at) => out.write_field(at.to_string())?,
            }
        }
        out.write_record(None::<&[u8]>)?;
    }
    out.into_inner().map_err(|e| e.into_error().into())
}

fn csv_writer() -> csv::Writer<Vec<u8>> {
    csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(vec![])
}

/// What a spreadsheet takes for the beginning of a formula, and what stands before a text that begins so.
const FORMULAS: [char; 12] =
    ['=', '+', '-', '@', '\t', '\r', '\n', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}', '\''];

/// A text that no spreadsheet takes for a formula.
fn harmless(text: &str) -> Cow<'_, str> {
    if text.starts_with(FORMULAS) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// A table as JSON, a line for each row.
///
/// # Errors
/// Never, as memory takes everything.
pub fn lines(table: &impl Table) -> Result<Vec<u8>, serde_json::Error> {
    let (shape, mut out) = (shape(table.fields()), vec![]);
    for row in 0..table.rows() {
        serde_json::to_writer(&mut out, &JsonRow { table, row, shape: &shape })?;
        out.push(b'\n');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Two(Vec<Field>);

    impl Table for Two {
        fn fields(&self) -> &[Field] {
            &self.0
        }

        fn rows(&self) -> usize {
            2
        }

        fn cell(&self, row: usize, field: usize) -> Cell<'_> {
            match (row, field) {
                (0, 0) => Cell::Text("a \"b\", c"),
                (0, 1) => Cell::Time(EpochMs(0)),
                (0, 2) => Cell::Real(1e300),
                (1, 0) => Cell::Hex(255),
                (1, 2) => Cell::Real(f64::INFINITY),
                (_, 3) => Cell::Whole(-3),
                (0, 4) => Cell::Flag(true),
                _ => Cell::Null,
            }
        }
    }

    fn two() -> Two {
        let names =
            [("name", ColumnKind::Text), ("first.time", ColumnKind::Time), ("first.value", ColumnKind::Real)];
        let names = names.into_iter().chain([("n", ColumnKind::Whole), ("yes", ColumnKind::Flag)]);
        Two(names.map(|(name, kind)| Field::new(name, kind)).collect())
    }

    #[test]
    fn the_same_rows_in_each_form() {
        let one = r#"{"name":"a \"b\", c","first":{"time":"1970-01-01T00:00:00.000Z","value":1e+300},"n":-3,"yes":true}"#;
        let other = r#"{"name":"00000000000000ff","first":{"time":null,"value":null},"n":-3,"yes":null}"#;
        assert_eq!(serde_json::to_string(&JsonRows(&two())).unwrap(), format!("[{one},{other}]"));
        assert_eq!(String::from_utf8(lines(&two()).unwrap()).unwrap(), format!("{one}\n{other}\n"));
        let text = "name,first_time,first_value,n,yes\r\n\"a \"\"b\"\", c\",1970-01-01T00:00:00.000Z,1e300,-3,true\r\n\
                    00000000000000ff,,,-3,\r\n";
        let csv = [csv_head(two().fields()).unwrap(), csv_rows(&two()).unwrap()].concat();
        assert_eq!(String::from_utf8(csv).unwrap(), text);
    }

    #[test]
    fn no_text_is_a_formula_and_each_can_be_had_back() {
        for text in ["=1+1", "+a", "-7", "@x", "\t=", "\r=", "\n=", "\u{ff1d}1", "'", "'=1"] {
            let told = harmless(text);
            assert_eq!((told.chars().next(), &told[1..]), (Some('\''), text));
        }
        assert_eq!((harmless("press-7"), harmless("")), ("press-7".into(), "".into()));
        assert_eq!(csv_rows(&two()).unwrap().iter().filter(|b| **b == b'\'').count(), 0, "-3 is a number");
    }

    #[test]
    fn the_form_is_what_format_says_or_what_is_accepted() {
        let choose = |format: Option<&str>, accepted: &[&str]| {
            Form::choose(format, &accepted.iter().map(|a| a.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(choose(None, &[]), Ok(Some(Form::Json)));
        assert_eq!(choose(Some("csv"), &["application/json"]), Ok(Some(Form::Csv)));
        assert_eq!(choose(None, &["text/html", "text/csv; header=absent", "*/*"]), Ok(Some(Form::Csv)));
        assert_eq!(choose(None, &["text/html", "*/*"]), Ok(Some(Form::Json)));
        assert_eq!(choose(None, &["Text/*"]), Ok(Some(Form::Csv)));
        assert_eq!(choose(None, &["application/x-ndjson"]), Ok(Some(Form::Lines)));
        assert_eq!(choose(None, &["image/png"]), Ok(None));
        assert!(choose(Some("xml"), &[]).unwrap_err().why.contains("json, csv, ndjson"));
    }
}
