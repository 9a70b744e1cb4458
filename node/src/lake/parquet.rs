//! Rows of columns as a Parquet file.
//!
//! Every column is optional, texts are kept in dictionaries, points in time are milliseconds of UTC. What is written is
//! what every reader of the last years understands: Snappy, data pages of version 1, and for whole numbers that grow their
//! differences (`DELTA_BINARY_PACKED`). The same rows give the same bytes.

use parquet::basic::{Compression, Encoding, LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnPath, Type};
use selvedge_node_core::table::{self, Cell, ColumnKind, Table};
use selvedge_types::time::TIME_RANGE;
use std::sync::Arc;

/// How many rows are in a row group: what a reader takes, or leaves out, at a time, and what is in memory here.
pub const ROW_GROUP_ENTRIES: usize = 122_880;

/// The largest dictionary of a column in a row group; values beyond it are written plainly.
const DICTIONARY_BYTES: usize = 1024 * 1024;

/// A column: its name and what it holds.
pub type ParquetField<'a> = (&'a str, ColumnKind);

/// A file that is being written. What is encoded of it lies in memory until it is taken.
pub struct Encoder {
    file: SerializedFileWriter<Vec<u8>>,
    columns: Vec<Column>,
    rows: usize,
}

/// A column of the open row group: its values, and for each row whether there is one.
struct Column {
    values: Values,
    there: Vec<i16>,
}

enum Values {
    Text(Vec<ByteArray>),
    Whole(Vec<i64>),
    Real(Vec<f64>),
    Flag(Vec<bool>),
}

impl Encoder {
    /// An empty file of these columns.
    ///
    /// # Errors
    /// When two have the same name.
    pub fn new(fields: &[ParquetField<'_>]) -> Result<Self> {
        let types = fields.iter().map(|field| Ok(Arc::new(leaf(field)?))).collect::<Result<_>>()?;
        let schema = Type::group_type_builder("schema").with_fields(types).build()?;
        let mut properties = WriterProperties::builder()
            .set_created_by("selvedge-node".into())
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_max_row_group_row_count(Some(ROW_GROUP_ENTRIES));
        for (name, kind) in fields {
            let column = ColumnPath::from(*name);
            if matches!(kind, ColumnKind::Time | ColumnKind::Whole) {
                properties = properties
                    .set_column_dictionary_enabled(column.clone(), false)
                    .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
            }
        }
        let file = SerializedFileWriter::new(vec![], Arc::new(schema), Arc::new(properties.build()))?;
        let column = |(_, kind): &ParquetField<'_>| {
            let values = match kind {
                ColumnKind::Text => Values::Text(vec![]),
                ColumnKind::Whole | ColumnKind::Time => Values::Whole(vec![]),
                ColumnKind::Real => Values::Real(vec![]),
                ColumnKind::Flag => Values::Flag(vec![]),
            };
            Column { values, there: vec![] }
        };
        Ok(Self { file, columns: fields.iter().map(column).collect(), rows: 0 })
    }

    /// Adds a row: a cell for each column.
    ///
    /// # Errors
    /// When a cell is not of its column's kind, or there are more or fewer of them.
    pub fn push(&mut self, row: &[Cell<'_>]) -> Result<()> {
        if row.len() != self.columns.len() {
            return Err(ParquetError::General(format!(
                "{} cells for {} columns",
                row.len(),
                self.columns.len()
            )));
        }
        for (column, cell) in self.columns.iter_mut().zip(row) {
            column.push(*cell)?;
        }
        self.rows += 1;
        Ok(())
    }

    /// Adds the rows of a table; gives what is encoded by then.
    ///
    /// # Errors
    /// When a cell is not of its column's kind.
    pub fn add(&mut self, table: &impl Table) -> Result<Vec<u8>> {
        let mut bytes = vec![];
        for row in 0..table.rows() {
            let cells: Vec<_> = (0..self.columns.len()).map(|field| table.cell(row, field)).collect();
            self.push(&cells)?;
            if self.is_full() {
                bytes.append(&mut self.take()?);
            }
        }
        Ok(bytes)
    }

    /// Whether the open row group is full.
    pub fn is_full(&self) -> bool {
        self.rows >= ROW_GROUP_ENTRIES
    }

    /// Ends the open row group and gives what is encoded and was not given yet.
    ///
    /// # Errors
    /// None that are known.
    pub fn take(&mut self) -> Result<Vec<u8>> {
        if self.rows > 0 {
            let mut group = self.file.next_row_group()?;
            for column in &mut self.columns {
                let Some(mut writer) = group.next_column()? else { break };
                column.write(writer.untyped())?;
                writer.close()?;
            }
            group.close()?;
            self.rows = 0;
        }
        self.file.flush()?;
        Ok(std::mem::take(self.file.inner_mut()))
    }

    /// Ends the file and gives the rest of it.
    ///
    /// # Errors
    /// None that are known.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        let mut rest = self.take()?;
        rest.append(&mut self.file.into_inner()?);
        Ok(rest)
    }
}

/// A table as a file, with underscores for the dots in its columns' names.
///
/// # Errors
/// When a cell is not of its column's kind.
pub fn of_table(table: &impl Table) -> Result<Vec<u8>> {
    let mut encoder = for_table(table.fields())?;
    let mut bytes = encoder.add(table)?;
    bytes.append(&mut encoder.finish()?);
    Ok(bytes)
}

/// An empty file for tables of these columns, with underscores for the dots in their names.
///
/// # Errors
/// When two have the same name.
pub fn for_table(fields: &[table::Field]) -> Result<Encoder> {
    let names: Vec<String> = fields.iter().map(|field| field.name.replace('.', "_")).collect();
    let fields: Vec<ParquetField<'_>> =
        names.iter().zip(fields).map(|(name, field)| (name.as_str(), field.kind)).collect();
    Encoder::new(&fields)
}

fn leaf((name, kind): &ParquetField<'_>) -> Result<Type> {
    let time = LogicalType::timestamp(true, TimeUnit::MILLIS);
    let (physical, logical) = match kind {
        ColumnKind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        ColumnKind::Whole => (Physical::INT64, None),
        ColumnKind::Real => (Physical::DOUBLE, None),
        ColumnKind::Flag => (Physical::BOOLEAN, None),
        ColumnKind::Time => (Physical::INT64, Some(time)),
    };
    Type::primitive_type_builder(name, physical)
        .with_logical_type(logical)
        .with_repetition(Repetition::OPTIONAL)
        .build()
}

impl Column {
    fn push(&mut self, cell: Cell<'_>) -> Result<()> {
        let there = match (&mut self.values, cell) {
            (_, Cell::Null) => false,
            (Values::Text(all), Cell::Text(text)) => {
                // Rows in order have the same text many times.
                let same = all.last().filter(|last| last.data() == text.as_bytes()).cloned();
                all.push(same.unwrap_or_else(|| ByteArray::from(text.as_bytes().to_vec())));
                true
            }
            (Values::Text(all), Cell::Hex(bits)) => {
                all.push(ByteArray::from(format!("{bits:016x}").into_bytes()));
                true
            }
            (Values::Whole(all), Cell::Whole(n)) => {
                all.push(n);
                true
            }
            (Values::Whole(all), Cell::Time(at)) => {
                all.push(at.0.clamp(*TIME_RANGE.start(), *TIME_RANGE.end()));
                true
            }
            // As in the other forms.
            (Values::Real(_), Cell::Real(n)) if !n.is_finite() => false,
            (Values::Real(all), Cell::Real(n)) => {
                all.push(n);
                true
            }
            (Values::Flag(all), Cell::Flag(yes)) => {
                all.push(yes);
                true
            }
            (_, cell) => return Err(ParquetError::General(format!("{cell:?} does not fit its column"))),
        };
        self.there.push(there.into());
        Ok(())
    }

    fn write(&mut self, writer: &mut ColumnWriter<'_>) -> Result<()> {
        let there = Some(&self.there[..]);
        match (&mut self.values, writer) {
            (Values::Text(all), ColumnWriter::ByteArrayColumnWriter(to)) => {
                to.write_batch(all, there, None)?
            }
            (Values::Whole(all), ColumnWriter::Int64ColumnWriter(to)) => to.write_batch(all, there, None)?,
            (Values::Real(all), ColumnWriter::DoubleColumnWriter(to)) => to.write_batch(all, there, None)?,
            (Values::Flag(all), ColumnWriter::BoolColumnWriter(to)) => to.write_batch(all, there, None)?,
            _ => return Err(ParquetError::General("a column is of another kind than its schema".into())),
        };
        self.there.clear();
        match &mut self.values {
            Values::Text(all) => all.clear(),
            Values::Whole(all) => all.clear(),
            Values::Real(all) => all.clear(),
            Values::Flag(all) => all.clear(),
        }
        Ok(())
    }
}
