//! Statements that are the same for both kinds of database up to how each writes what differs, and their rows. Each
//! database runs them: `sqlite/statement.rs` and `postgres/statement.rs`.

use selvedge_node_core::params::WantedStreams;
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::pattern::Pattern;
use selvedge_types::time::EpochMs;

/// How a database writes what differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The column in which a window's start is.
    pub(super) fn start(self) -> &'static str {
        match self {
            Self::Sqlite => "start_ms",
            Self::Postgres => "start",
        }
    }

    /// The columns of a row `w` of windows or roll-ups, as [`Columns::window`] reads them.
    pub(super) const fn row(self) -> &'static str {
        macro_rules! row {
            ($start:literal) => {
                concat!(
                    $start,
                    ", w.count, w.min, w.max, w.first_ms, w.first_slot, w.first_index, w.first, w.last_ms, ",
                    "w.last_slot, w.last_index, w.last, w.fingerprint, w.late_count, w.revision, w.set_aside, ",
                    "w.sequences, w.spread"
                )
            };
        }
        match self {
            Self::Sqlite => row!("w.start_ms"),
            Self::Postgres => row!("w.start"),
        }
    }
}

/// What is bound to a place of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BoundValue {
    Text(String),
    TextIfAny(Option<String>),
    Whole(i64),
    /// A whole number, or NULL.
    WholeIfAny(Option<i64>),
    /// Where a window starts.
    Start(EpochMs),
}

/// A statement with what is bound to its places.
#[derive(Debug)]
pub struct Statement {
    dialect: Dialect,
    pub text: String,
    /// What is bound, in order.
    pub values: Vec<BoundValue>,
}

impl Statement {
    pub(super) fn new(dialect: Dialect, text: &str) -> Self {
        Self { dialect, text: text.to_string(), values: vec![] }
    }

    /// One that is all written: its text names its values as `?1`, `?2` and so on, each as often as it needs it.
    pub(super) fn written(dialect: Dialect, text: &str, values: Vec<BoundValue>) -> Self {
        let text = if dialect == Dialect::Sqlite { text.to_string() } else { text.replace('?', "$") };
        Self { dialect, text, values }
    }

    /// One whose text names its first value already, in the form of its database.
    pub(super) fn with(dialect: Dialect, text: &str, first: BoundValue) -> Self {
        Self { values: vec![first], ..Self::new(dialect, text) }
    }

    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    pub(super) fn bind(&mut self, value: BoundValue) -> &mut Self {
        self.values.push(value);
        let sign = if self.dialect == Dialect::Sqlite { '?' } else { '$' };
        self.text.push_str(&format!("{sign}{}", self.values.len()));
        self
    }

    pub(super) fn whole(&mut self, value: i64) -> &mut Self {
        self.bind(BoundValue::Whole(value))
    }

    pub(super) fn start(&mut self, value: EpochMs) -> &mut Self {
        self.bind(BoundValue::Start(value))
    }

    pub(super) fn words(&mut self, value: &str) -> &mut Self {
        self.bind(BoundValue::Text(value.to_string()))
    }

    /// ` AND column = / >= ... / GLOB ...`: what an index serves comes first.
    pub(super) fn matches(&mut self, column: &str, pattern: Option<&Pattern>) -> &mut Self {
        let Some(pattern) = pattern else { return self };
        if let Some(name) = pattern.exact() {
            return self.push(&format!(" AND {column} = ")).words(name);
        }
        if !pattern.prefix().is_empty() {
            self.push(&format!(" AND {column} >= ")).words(pattern.prefix());
            if let Some(end) = pattern.after_prefix() {
                self.push(&format!(" AND {column} < ")).words(&end);
            }
        }
        if !pattern.is_prefix() {
            match self.dialect {
                Dialect::Sqlite => self.push(&format!(" AND {column} GLOB ")).words(&pattern.glob()),
                Dialect::Postgres => self.push(&format!(" AND {column} LIKE ")).words(&pattern.like()),
            };
        }
        self
    }

    /// ` AND ...` for what is asked of devices.
    pub(super) fn devices(&mut self, sites: Option<&[String]>, wanted: &WantedStreams) -> &mut Self {
        self.matches("d.site", wanted.site.as_ref()).matches("d.name", wanted.device.as_ref());
        if let Some(text) = &wanted.search {
            match self.dialect {
                Dialect::Sqlite => self.push(" AND instr(lower(d.name), lower(").words(text).push(")) > 0"),
                Dialect::Postgres => {
                    self.push(" AND strpos(lower(d.name), lower(").words(text).push(")) > 0")
                }
            };
        }
        self.sites("d.site", sites)
    }

    pub(super) fn sites(&mut self, column: &str, sites: Option<&[String]>) -> &mut Self {
        let Some(sites) = sites else { return self };
        // A list of none shows none.
        self.push(&format!(" AND ({column} IN (NULL"));
        for site in sites {
            self.push(", ").words(site);
        }
        self.push("))")
    }

    pub(super) fn limit(&mut self, limit: u32) -> &mut Self {
        self.push(" LIMIT ").whole(limit.into())
    }
}

/// A row of an answer, of either kind of database; columns count from 0.
pub(super) trait Columns {
    type Error;
    fn text(&self, at: usize) -> Result<String, Self::Error>;
    fn whole(&self, at: usize) -> Result<i64, Self::Error>;
    fn whole_if_any(&self, at: usize) -> Result<Option<i64>, Self::Error>;
    /// Where a window starts.
    fn start(&self, at: usize) -> Result<EpochMs, Self::Error>;
    fn start_if_any(&self, at: usize) -> Result<Option<EpochMs>, Self::Error>;
    fn flag(&self, at: usize) -> Result<bool, Self::Error>;
    /// The columns of a window, from there on.
    fn window(&self, at: usize) -> Result<StoredWindow, Self::Error>;
}

/// Asks whichever database it is. What a row becomes is the same for both.
macro_rules! ask {
    ($reader:expr, $statement:expr, $read:expr) => {
        match $reader {
            Reader::Sqlite(reader) => reader.run($statement(Dialect::Sqlite), |row| $read(row)).await,
            Reader::Postgres(reader) => reader.run($statement(Dialect::Postgres), |row| $read(row)).await,
        }
    };
}

pub(super) use ask;
