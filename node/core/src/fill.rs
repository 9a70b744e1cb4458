//! Gap filling: rows for the spans in which nothing was counted.

use super::params::{BadParameter, bad, shown};
use super::query::AggregateQuery;
use super::row::{Content, Filling, Row};
use std::sync::Arc;

/// What stands for readings where there are none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    /// Nothing.
    Null,
    /// What was before, as far as it was asked for.
    Previous,
    /// What lies on the line between the span before and the span after.
    Linear,
    /// A number.
    Value(f64),
}

impl Fill {
    /// From the parameter; nothing for `none`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Option<Self>, BadParameter> {
        Ok(Some(match text {
            "none" => return Ok(None),
            "null" => Self::Null,
            "previous" => Self::Previous,
            "linear" => Self::Linear,
            number => match number.parse::<f64>() {
                Ok(value) if value.is_finite() => Self::Value(value),
                _ => {
                    let why = format!("{} is none of: none, null, previous, linear, a number", shown(number));
                    return Err(bad("fill", why));
                }
            },
        }))
    }

    /// The rows of one owner, by start, and one for each other span of a query.
    pub fn rows(self, rows: Vec<Row>, query: &AggregateQuery) -> Vec<Row> {
        let Some(every) = &query.every else { return rows };
        let (first, to) = (every.start(query.from), query.to);
        let Some(owner) = rows.first().map(|row| row.owner.clone()) else { return vec![] };
        let (mut all, mut before, mut start) = (vec![], None, first);
        let mut rows = rows.into_iter().peekable();
        while start < to {
            match rows.next_if(|row| row.start == start) {
                Some(row) => {
                    if let Content::Counted(window) = &row.content {
                        before = Some((row.start, window.clone()));
                    }
                    all.push(row);
                }
                None => {
                    let after = rows.peek().and_then(|row| match &row.content {
                        Content::Counted(window) => Some((row.start, window)),
                        Content::Filled(_) => None,
                    });
                    let filling = match (self, &before, after) {
                        (Self::Value(value), _, _) => Filling::Value(value),
                        (Self::Previous, Some((_, before)), _) => Filling::Same(before.clone()),
                        (Self::Linear, Some((left, before)), Some((right, after))) => {
                            let share = (start.0 - left.0) as f64 / (right.0 - left.0) as f64;
                            Filling::Between(before.clone(), Arc::clone(after), share)
                        }
                        _ => Filling::Null,
                    };
                    let content = Content::Filled(filling);
                    all.push(Row { streams: 0, ..query.row(&owner, start, 0, content) });
                }
            }
            start = every.end(start);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::{AGGREGATE_PARAMETERS, Parameters};
    use crate::row::{Function, More, Owner, RowTable};
    use crate::stored::StoredWindow;
    use crate::table::{Cell, Table};
    use selvedge_shared::aggregate::{Aggregate, Sample};
    use selvedge_shared::sequences::Sequences;
    use selvedge_shared::time::EpochMs;

    fn row(start: i64, value: f64) -> Row {
        let start = EpochMs(start);
        let aggregate = Aggregate::of(Sample { time: start, slot: 1, index: 0, value });
        let window = StoredWindow {
            start,
            aggregate,
            late: 0,
            parts: 1,
            set_aside: 0,
            sequences: Sequences::default(),
        };
        let content = Content::Counted(Arc::new(window));
        let (owner, passed) = (Arc::new(Owner::default()), start);
        Row {
            owner,
            start,
            width_ms: 10,
            local: None,
            streams: 1,
            content,
            passed,
            complete: true,
            partial: false,
        }
    }

    fn filled(fill: Fill, rows: Vec<Row>) -> Vec<(i64, i64, Option<f64>, bool)> {
        let functions = ["count", "mean"].map(|name| Function::named(name).unwrap());
        let mut table = RowTable::new(Some(&functions), More { filled: true, ..More::default() });
        let given = [("every", "10"), ("from", "-10"), ("to", "45"), ("fill", "null")];
        let given = given.map(|(name, value)| (name.to_string(), value.to_string())).into();
        let p = Parameters::new(given, &AGGREGATE_PARAMETERS).unwrap();
        table.rows = fill.rows(rows, &AggregateQuery::read(&p).unwrap());
        (0..table.rows())
            .map(|row| {
                let cell =
                    |name: &str| table.cell(row, table.fields().iter().position(|f| f.name == name).unwrap());
                let whole = |name| if let Cell::Whole(n) = cell(name) { n } else { -1 };
                let mean = if let Cell::Real(value) = cell("mean") { Some(value) } else { None };
                (whole("start_ms"), whole("count"), mean, cell("filled") == Cell::Flag(true))
            })
            .collect()
    }

    #[test]
    fn spans_without_readings_are_filled_as_was_asked() {
        let rows = || vec![row(0, 1.0), row(30, 4.0)];
        let told = |a, b, c, d| {
            [
                (-10, 0, a, true),
                (0, 1, Some(1.0), false),
                (10, 0, b, true),
                (20, 0, c, true),
                (30, 1, Some(4.0), false),
                (40, 0, d, true),
            ]
        };
        assert_eq!(filled(Fill::Null, rows()), told(None, None, None, None));
        assert_eq!(filled(Fill::Value(7.0), rows()), told(Some(7.0), Some(7.0), Some(7.0), Some(7.0)));
        assert_eq!(filled(Fill::Previous, rows()), told(None, Some(1.0), Some(1.0), Some(4.0)));
        assert_eq!(filled(Fill::Linear, rows()), told(None, Some(2.0), Some(3.0), None));
        assert_eq!(filled(Fill::Null, vec![]), [], "who has nothing at all is left out");
    }

    #[test]
    fn the_parameter() {
        assert_eq!(Fill::parse("none"), Ok(None));
        assert_eq!(Fill::parse("-1.5"), Ok(Some(Fill::Value(-1.5))));
        for bad in ["", "zero", "NaN", "inf", "1,5"] {
            assert!(Fill::parse(bad).unwrap_err().why.contains("linear"), "{bad}");
        }
    }
}
