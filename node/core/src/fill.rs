//! Gap filling: rows for spans without readings.

use super::row::Filling;
use super::stored::StoredWindow;
use selvedge_types::params::{BadParameter, bad, shown};
use selvedge_types::time::EpochMs;
use std::sync::Arc;

/// What a span without readings shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fill {
    Null,
    /// What was before, as far as it was asked for.
    Previous,
    /// What lies on the line between the span before and the span after.
    Linear,
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
                    let why =
                        format!("{} is not one of: none, null, previous, linear, a number", shown(number));
                    return Err(bad("fill", why));
                }
            },
        }))
    }

    /// What stands for readings in the span that begins at `start`, between the last span before it that has some and the
    /// next one behind it.
    pub fn between(
        self,
        start: EpochMs,
        before: Option<&Arc<StoredWindow>>,
        after: Option<&Arc<StoredWindow>>,
    ) -> Filling {
        match (self, before, after) {
            (Self::Value(value), _, _) => Filling::Value(value),
            (Self::Previous, Some(before), _) => Filling::Same(before.clone()),
            (Self::Linear, Some(before), Some(after)) => {
                let share = (start.0 - before.start.0) as f64 / (after.start.0 - before.start.0) as f64;
                Filling::Between(before.clone(), after.clone(), share)
            }
            _ => Filling::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;
    use crate::query::{AGGREGATE_PARAMETERS, AggregateQuery};
    use crate::row::{Function, More, Row, RowContent, RowTable};
    use crate::table::{Cell, Table};
    use selvedge_types::aggregate::{Aggregate, Sample};
    use selvedge_types::params::Parameters;
    use selvedge_types::sequences::Sequences;

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
        let content = RowContent::Counted(Arc::new(window));
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
        table.rows = AggregateQuery::read(&p).unwrap().filled(fill, rows);
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
