//! Recorded series to replay: CSV files with the columns `timestamp,value`.

use selvedge_types::ids::MAX_NAME_BYTES;
use selvedge_types::time::EpochMs;
use std::path::{Path, PathBuf};

/// The most rows of one file.
pub const MAX_REPLAY_ROWS_ENTRIES: usize = 5_000_000;

/// The stream that a replayed file's readings belong to.
pub const REPLAY_STREAM: &str = "value";

/// A recorded series, which one device replays.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// The device it is replayed as: the file's name without its ending.
    pub device: String,
    /// Times and values in the file's order; times may repeat.
    pub rows: Vec<(EpochMs, f64)>,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file can't be read.
    #[error("{}: can't be read: {why}", file.display())]
    Read {
        file: PathBuf,
        /// What the system or the CSV reader says.
        why: String,
    },
    /// A line is not `timestamp,value`.
    #[error("{}, line {line}: {why}", file.display())]
    Row {
        file: PathBuf,
        /// Counted from 1, the header included.
        line: u64,
        /// What is wrong and what would be right.
        why: String,
    },
    /// The file's name can't be a device's name.
    #[error(
        "{}: the file's name becomes the device's name, which has 1 to {MAX_NAME_BYTES} bytes and none of / + # or control characters; rename it",
        .0.display()
    )]
    Name(PathBuf),
}

/// Reads a whole file.
///
/// # Errors
/// Names the file, and the line where there is one.
pub fn load(file: &Path) -> Result<Recording, ReplayError> {
    let source = std::fs::File::open(file)
        .map_err(|e| ReplayError::Read { file: file.to_path_buf(), why: e.to_string() })?;
    parse(file, std::io::BufReader::new(source))
}

/// Reads rows from anywhere; `file` names them.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &Path, source: impl std::io::Read) -> Result<Recording, ReplayError> {
    let device = device_name(file).ok_or_else(|| ReplayError::Name(file.to_path_buf()))?;
    let row_error = |line: u64, why: String| ReplayError::Row { file: file.to_path_buf(), line, why };
    let mut reader = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(source);
    let headers =
        reader.headers().map_err(|e| row_error(1, format!("the header can't be read: {e}")))?.clone();
    let column = |name: &str| {
        let unmarked = |h: &str| h.trim_start_matches('\u{feff}').eq_ignore_ascii_case(name);
        headers.iter().position(unmarked).ok_or_else(|| {
            let found: String = headers.iter().collect::<Vec<_>>().join(",").chars().take(80).collect();
            row_error(
                1,
                format!("no column {name:?}; the header must be \"timestamp,value\", it is {found:?}"),
            )
        })
    };
    let (time_at, value_at) = (column("timestamp")?, column("value")?);
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        let here = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(e) => {
                let line = e.position().map_or(here, csv::Position::line);
                return Err(row_error(line, format!("can't be read: {e}")));
            }
        }
        let line = record.position().map_or(here, csv::Position::line);
        if rows.len() >= MAX_REPLAY_ROWS_ENTRIES {
            return Err(row_error(line, format!("more than {MAX_REPLAY_ROWS_ENTRIES} rows; split the file")));
        }
        let field = |at: usize, name: &str| {
            record.get(at).filter(|f| !f.is_empty()).ok_or_else(|| row_error(line, format!("no {name}")))
        };
        let time = parse_time(field(time_at, "timestamp")?).map_err(|why| row_error(line, why))?;
        let text = field(value_at, "value")?;
        let value = text.parse::<f64>().ok().filter(|v| v.is_finite()).ok_or_else(|| {
            let shown: String = text.chars().take(40).collect();
            row_error(line, format!("value {shown:?} is not a finite number; write, for example, 73.5"))
        })?;
        rows.push((time, value));
    }
    Ok(Recording { device, rows })
}

/// `2013-12-02 21:15:00` (UTC, fractions allowed), RFC 3339, or epoch milliseconds.
fn parse_time(text: &str) -> Result<EpochMs, String> {
    if let Ok(time) = EpochMs::parse(text) {
        return Ok(time);
    }
    let civil = text.parse::<jiff::civil::DateTime>().ok();
    let zoned = civil.filter(|_| text.contains(':')).and_then(|c| c.to_zoned(jiff::tz::TimeZone::UTC).ok());
    zoned.and_then(|z| EpochMs::in_range(z.timestamp().as_millisecond())).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        format!(
            "timestamp {shown:?} is not a time; write 2013-12-02 21:15:00 (UTC), 2013-12-02T21:15:00Z or epoch milliseconds"
        )
    })
}

fn device_name(file: &Path) -> Option<String> {
    let name = file.file_stem()?.to_str()?;
    let sound = (1..=MAX_NAME_BYTES).contains(&name.len())
        && !name.chars().any(|c| matches!(c, '/' | '+' | '#' | '\u{fffd}') || c.is_control());
    sound.then(|| name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Result<Vec<(i64, f64)>, String> {
        let recording = parse(Path::new("x/oven_1.csv"), text.as_bytes()).map_err(|e| e.to_string())?;
        assert_eq!(recording.device, "oven_1");
        Ok(recording.rows.iter().map(|(t, v)| (t.0, *v)).collect())
    }

    #[test]
    fn all_forms_of_time_are_read_and_repeated_times_kept() {
        let text = "timestamp,value\n2013-12-02 21:15:00,73.96732207\n2013-12-02T21:15:00Z,74.93588199999998\n\
                    1386018900000,1e3\n\n2013-12-02 22:15:00.250,-0.5\r\n";
        let at = 1_386_018_900_000;
        assert_eq!(
            rows(text).unwrap(),
            [(at, 73.96732207), (at, 74.93588199999998), (at, 1_000.0), (at + 3_600_250, -0.5)]
        );
        assert_eq!(rows("value, timestamp ,more\n1, 5 ,x\n").unwrap(), [(5, 1.0)]);
        assert_eq!(rows("timestamp,value\n").unwrap(), []);
    }

    #[test]
    fn odd_rows_are_named_by_file_and_line() {
        for (text, line, says) in [
            ("time,value\n1,2\n", 1, "timestamp"),
            ("", 1, "timestamp"),
            ("timestamp,value\n1,2\n2,warm\n", 3, "\"warm\""),
            ("timestamp,value\n1,NaN\n", 2, "finite"),
            ("timestamp,value\n1,1e999\n", 2, "finite"),
            ("timestamp,value\n\n\n1,2\n2\n", 5, "no value"),
            ("timestamp,value\n1,2\nyesterday,2\n", 3, "2013-12-02 21:15:00"),
            ("timestamp,value\n2013-12-02,2\n", 2, "not a time"),
        ] {
            let said = rows(text).unwrap_err();
            assert!(said.contains("oven_1.csv"), "{said}");
            assert!(said.contains(&format!("line {line}:")), "{text:?}: {said}");
            assert!(said.contains(says), "{said}");
        }
        let bytes = b"timestamp,value\n1,2\n2,\xff\n";
        let said = parse(Path::new("b.csv"), &bytes[..]).unwrap_err().to_string();
        assert!(said.contains("b.csv, line 3"), "{said}");
        assert!(parse(Path::new("a+b.csv"), &b"timestamp,value\n"[..]).is_err());
    }
}
