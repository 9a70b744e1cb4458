//! A person's SQL: what the guards let through reads, is one statement, and calls nothing that acts.
//!
//! PostgreSQL's guard reads text alone, and is held against two judges of its own: statements that are put together from pieces of
//! which it is known what the server makes of them, and, for any text, a second scanner that follows the server's rules byte by
//! byte. SQLite's guard is held against SQLite: what it lets through changes nothing in a database that may be written, either.

use crate::source::Source;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, OpenFlags};
use selvedge_node::store;
use selvedge_node::store::sql_worker::{self, Order, SqlOutcome};
use selvedge_node_core::calls;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MAX_PIECES: usize = 40;
const MAX_TEXT_BYTES: usize = 1_000;
const MAX_ROWS: u32 = 20;
const MAX_BYTES: u64 = 20_000;
const TIME_MS: u64 = 20;

/// Functions that act, or that grow beyond what they are given.
const ACTING: [&str; 12] = [
    "set_config",
    "pg_sleep",
    "pg_terminate_backend",
    "dblink",
    "lo_import",
    "query_to_xml",
    "repeat",
    "lpad",
    "format",
    "nextval",
    "pg_read_file",
    "currval",
];

/// Functions and words of the grammar that may stand before a parenthesis.
const LISTED: [&str; 8] = ["sum", "coalesce", "date_trunc", "in", "and", "values", "\"count\"", "COUNT"];

/// Words of their own to the server, however odd.
const NAMES: [&str; 14] = [
    "a",
    "x$$",
    "\u{a0}$$",
    "\u{3000}$a$",
    "\u{85}",
    "\u{2028}e",
    "\u{e9}$1$",
    "_$$_",
    "\"a\"\"b\"",
    "\"$$\"",
    "\"--\"",
    "e5$$",
    "b$$",
    "\u{feff}$$",
];

/// What the server skips, or reads as a constant.
const CONSTANTS: [&str; 12] = [
    "'it''s set_config('",
    "$$ pg_sleep( $$",
    "$a$ $$ dblink( $b$ $a$",
    "/* /* lo_import( */ -- */",
    "-- pg_x(\n",
    "--'\r",
    "1",
    "1.5e3",
    "b'1'",
    "N'$$'",
    "''",
    "/**/",
];

/// What statements are put together from, for either database.
const PIECES: [&str; 56] = [
    "SELECT ",
    "FROM ",
    "WHERE ",
    "windows ",
    "devices ",
    "device ",
    "series ",
    "sqlite_schema ",
    "* ",
    "1 ",
    "'a' ",
    ", ",
    "( ",
    ") ",
    "; ",
    "AS ",
    "values ",
    "WITH ",
    "RECURSIVE ",
    "UNION ALL ",
    "ORDER BY 1 ",
    "GROUP BY 1 ",
    "LIMIT 3 ",
    "INSERT INTO device ",
    "DELETE FROM series ",
    "UPDATE series SET stream = 'x' ",
    "RETURNING * ",
    "CREATE TABLE x (a) ",
    "CREATE TEMP VIEW x AS ",
    "DROP TABLE hole ",
    "ALTER TABLE hole RENAME TO x ",
    "ATTACH ':memory:' AS x ",
    "DETACH main ",
    "PRAGMA ",
    "user_version = 7 ",
    "table_info(device) ",
    "query_only = 0 ",
    "journal_mode = DELETE ",
    "writable_schema = 1 ",
    "VACUUM ",
    "REINDEX ",
    "ANALYZE ",
    "BEGIN IMMEDIATE ",
    "COMMIT ",
    "SAVEPOINT a ",
    "EXPLAIN ",
    "load_extension('x') ",
    "randomblob(1000000000) ",
    "zeroblob(16000000) ",
    "pragma_table_info('device') ",
    "json_each('[1,2]') ",
    "count(*) ",
    "? ",
    "-- \n",
    "/* ",
    "*/ ",
];

pub fn run(database: &Database, data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => known(&mut source),
        1 => {
            let text = source.text(MAX_TEXT_BYTES);
            any(&text);
            sqlite(database, &text);
        }
        which => {
            let mut text = String::new();
            while !source.is_empty() && text.len() < MAX_TEXT_BYTES {
                match source.byte() {
                    0..8 => text.push_str(&source.text(12)),
                    8..16 => text.push_str(source.pick(&ACTING)),
                    16..24 => text.push_str(source.pick(&NAMES)),
                    24..32 => text.push_str(source.pick(&CONSTANTS)),
                    n => text.push_str(PIECES[usize::from(n - 32) % PIECES.len()]),
                }
            }
            if which == 2 { sqlite(database, &text) } else { any(&text) }
        }
    }
}

/// A statement of which it is known whether the server would call something that acts.
fn known(source: &mut Source) {
    let (mut text, mut acts) = ("SELECT 1".to_string(), false);
    for _ in 0..MAX_PIECES {
        if source.is_empty() {
            break;
        }
        match source.below(8) {
            0 => {
                let name = source.pick(&ACTING);
                let name = match source.below(3) {
                    0 => name.to_ascii_uppercase(),
                    1 => format!("\"{name}\""),
                    _ => name.to_string(),
                };
                let between = source.pick(&["", " ", "\n", "/* ' */", "--'\n", "/*$$*/", "\t\u{b}\u{c}"]);
                text.push_str(&format!(", {name}{between}(1)"));
                acts = true;
            }
            1 => {
                let name = source.pick(&["dblink", "set_config", "lo_import"]);
                text.push_str(&format!(", (SELECT x FROM {name}(a, b) AS (values text))"));
                acts = true;
            }
            2 => text.push_str(&format!(", {} (1)", source.pick(&LISTED))),
            3 => text.push_str(&format!(" AS {}", source.pick(&NAMES))),
            4 => text.push_str(&format!(", {} ", source.pick(&NAMES))),
            _ => text.push_str(&format!(", {} ", source.pick(&CONSTANTS))),
        }
    }
    assert_eq!(calls::check(&text).is_err(), acts, "{text:?}: {:?}", calls::check(&text));
}

/// Any text: nothing that acts is called in what is let through.
fn any(text: &str) {
    match calls::check(text) {
        Err(why) => assert!(!why.is_empty() && why.len() < 500 + text.len(), "{why}"),
        Ok(()) => {
            let words = scan(text);
            for (at, word) in words.iter().enumerate() {
                let Scanned::Word(name) = word else { continue };
                assert!(!name.to_ascii_lowercase().starts_with("pg_"), "{text:?} names {name}");
                if words.get(at + 1) != Some(&Scanned::Mark(b'(')) || !ACTING.contains(&&**name) {
                    continue;
                }
                let is = |at: usize, what: &str| words.get(at) == Some(&Scanned::Word(what.into()));
                let aliased = at > 0 && is(at - 1, "as");
                // `name (a, b) AS (SELECT`: what WITH gives a name to.
                let close = words.iter().skip(at).position(|w| *w == Scanned::Mark(b')')).map(|n| at + n);
                let named = close.is_some_and(|close| {
                    let open = (close + 2..close + 5).find(|i| words.get(*i) == Some(&Scanned::Mark(b'(')));
                    let query = |open: usize| {
                        ["select", "with", "table"].iter().any(|w| is(open + 1, w))
                            || words.get(open + 1) == Some(&Scanned::Mark(b'('))
                            || (is(open + 1, "values") && words.get(open + 2) == Some(&Scanned::Mark(b'(')))
                    };
                    is(close + 1, "as") && open.is_some_and(query)
                });
                assert!(aliased || named, "{text:?} calls {name}");
            }
        }
    }
}

#[derive(Debug, PartialEq)]
enum Scanned {
    /// In lower case unless it stands in quotes.
    Word(String),
    Mark(u8),
    Constant,
}

/// As PostgreSQL's scanner cuts a statement, with standard strings: bytes, states, and no thought of what it means.
fn scan(text: &str) -> Vec<Scanned> {
    let b = text.as_bytes();
    let at = |i: usize| b.get(i).copied().unwrap_or(0);
    let starts = |c: u8| c.is_ascii_alphabetic() || c == b'_' || c >= 0x80;
    let goes_on = |c: u8| starts(c) || c.is_ascii_digit() || c == b'$';
    let (mut all, mut i) = (vec![], 0);
    while i < b.len() {
        match b[i] {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => i += 1,
            b'-' if at(i + 1) == b'-' => {
                while i < b.len() && !matches!(b[i], b'\n' | b'\r') {
                    i += 1;
                }
            }
            b'/' if at(i + 1) == b'*' => {
                let mut depth = 1;
                i += 2;
                while i < b.len() && depth > 0 {
                    let step = match (b[i], at(i + 1)) {
                        (b'/', b'*') => 1,
                        (b'*', b'/') => -1,
                        _ => 0,
                    };
                    depth += step;
                    i += if step == 0 { 1 } else { 2 };
                }
            }
            quote @ (b'\'' | b'"') => {
                let from = i + 1;
                i += 1;
                while i < b.len() && (b[i] != quote || at(i + 1) == quote) {
                    i += if b[i] == quote { 2 } else { 1 };
                }
                let inside = text.get(from..i.min(b.len())).unwrap_or("");
                i += 1;
                all.push(match quote {
                    b'"' => Scanned::Word(inside.replace("\"\"", "\"")),
                    _ => Scanned::Constant,
                });
            }
            b'$' => {
                let mut end = i + 1;
                if starts(at(end)) {
                    while starts(at(end)) || at(end).is_ascii_digit() {
                        end += 1;
                    }
                }
                if at(end) == b'$' {
                    let tag = &b[i..=end];
                    let rest = &b[end + 1..];
                    let found = rest.windows(tag.len()).position(|w| w == tag);
                    i = found.map_or(b.len(), |n| end + 1 + n + tag.len());
                    all.push(Scanned::Constant);
                } else {
                    all.push(Scanned::Mark(b'$'));
                    i += 1;
                }
            }
            c if starts(c) => {
                let from = i;
                while goes_on(at(i)) {
                    i += 1;
                }
                let word = &text[from..i];
                all.push(Scanned::Word(word.to_ascii_lowercase()));
            }
            c if c.is_ascii_digit() => {
                all.push(Scanned::Constant);
                i += 1;
            }
            c => {
                all.push(Scanned::Mark(c));
                i += 1;
            }
        }
    }
    all
}

/// A node's database with its tables and views.
pub struct Database {
    file: PathBuf,
    /// What the file holds.
    bytes: Vec<u8>,
    /// The statements that make its tables and views.
    form: Vec<String>,
    /// Removed at the end.
    _folder: TempDir,
}

impl Database {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let made = selvedge_node::store::open(&store::Database::sqlite(folder.path())).await;
            made.expect("a new database").0.close().await.expect("it closes");
        });
        let file = folder.path().join("selvedge.db");
        let db = Connection::open(&file).expect("it opens");
        // One file, so that its bytes are all there is.
        db.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(())).expect("one file");
        let row = "INSERT INTO device VALUES (1, 'plant-7', 'press-4', 0, 5)";
        db.execute_batch(row).expect("a row");
        let form = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%'";
        let mut asked = db.prepare(form).expect("its form");
        let form =
            asked.query_map([], |row| row.get(0)).expect("rows").map(|sql| sql.expect("a text")).collect();
        drop(asked);
        drop(db);
        let bytes = std::fs::read(&file).expect("its bytes");
        Self { file, bytes, form, _folder: folder }
    }
}

fn sqlite(database: &Database, text: &str) {
    let Database { file, bytes, form, .. } = database;
    let order = Order {
        file: file.clone(),
        statement: text.to_string(),
        time_ms: TIME_MS,
        rows: MAX_ROWS,
        bytes: MAX_BYTES,
    };
    let outcome = sql_worker::answer(&order);
    assert!(std::fs::read(file).expect("it is there").as_slice() == bytes.as_slice(), "changed by {text:?}");
    match outcome {
        SqlOutcome::Answer(answer) => {
            assert!(answer.rows.len() <= MAX_ROWS as usize);
            assert!(answer.rows.iter().all(|row| row.len() == answer.columns.len()), "{text:?}");
            changes_nothing(text, form);
        }
        SqlOutcome::Time | SqlOutcome::Memory => changes_nothing(text, form),
        SqlOutcome::Statement(why) => assert!(!why.is_empty(), "{text:?}"),
        SqlOutcome::Store(why) => panic!("the database fails by {text:?}: {why}"),
    }
}

/// What was let through, in a database that has no guard and may be written.
fn changes_nothing(text: &str, form: &[String]) {
    static ACTED: AtomicBool = AtomicBool::new(false);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
    let mut db = Connection::open_with_flags(":memory:", flags).expect("memory");
    form.iter().for_each(|sql| db.execute_batch(sql).expect("its form"));
    let figures = |db: &Connection| {
        let of =
            |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).expect("a number");
        let files: i64 =
            db.query_row("SELECT count(*) FROM pragma_database_list", [], |r| r.get(0)).expect("n");
        (
            db.total_changes(),
            of("schema_version"),
            of("user_version"),
            of("query_only"),
            files,
            db.is_autocommit(),
        )
    };
    let before = figures(&db);
    let end = Instant::now() + Duration::from_millis(TIME_MS);
    db.progress_handler(1_000, Some(move || Instant::now() >= end)).expect("a handler");
    ACTED.store(false, Ordering::Relaxed);
    db.authorizer(Some(|context: AuthContext<'_>| {
        let reads = match context.action {
            AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => true,
            AuthAction::Function { function_name } => !function_name.eq_ignore_ascii_case("load_extension"),
            AuthAction::Pragma { pragma_name, .. } => {
                let name = pragma_name.to_ascii_lowercase();
                name.starts_with("table_") || name.starts_with("index_")
            }
            _ => false,
        };
        ACTED.fetch_or(!reads, Ordering::Relaxed);
        Authorization::Allow
    }))
    .expect("an authorizer");
    if let Ok(mut statement) = db.prepare(text)
        && let Ok(mut rows) = statement.query([])
    {
        for _ in 0..MAX_ROWS {
            if !matches!(rows.next(), Ok(Some(_))) {
                break;
            }
        }
    }
    db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).expect("no authorizer");
    db.progress_handler(0, None::<fn() -> bool>).expect("no handler");
    assert!(!ACTED.load(Ordering::Relaxed), "{text:?} does more than read");
    assert_eq!(figures(&db), before, "{text:?} changes something");
}
