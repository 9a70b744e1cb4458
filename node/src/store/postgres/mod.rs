//! PostgreSQL: tables and views of the same names as in SQLite, shared by any number of nodes.
//!
//! A node holds one connection that writes and a few that read. Each is made when it is needed and thrown away after any
//! failure, so that a server that was restarted, moved or restored is found again without further ado.

mod lake;
mod link;
mod read;
mod role;
mod schema;
mod sql;
mod statement;
mod write;

pub use lake::PostgresExports;
pub use link::{Postgres, Said};
pub use read::PostgresReader;
pub use write::PostgresWriter;

use super::statement::Dialect;
use super::{StoreError, sequences_from};
use bytes::{BufMut, BytesMut};
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::LedgerId;
use std::borrow::Cow;
use std::error::Error;
use std::sync::Arc;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// The columns of a row of windows or roll-ups, as [`window_at`] reads them.
const ROW: &str = Dialect::Postgres.row();

/// Brings the database to this release's tables.
pub async fn open(server: &Postgres) -> Result<(PostgresWriter, PostgresReader), StoreError> {
    let server = Arc::new(server.clone());
    schema::migrate(&server).await?;
    Ok((PostgresWriter::new(server.clone()), PostgresReader::new(server)))
}

/// Asks which ledger a database is; see [`ledger_id`].
const LEDGER_ID: &str = "SELECT uuid_send(id) FROM ledger";

fn ledger_id(row: &Row) -> Result<LedgerId, StoreError> {
    let bytes = row.try_get::<_, &[u8]>(0)?;
    bytes.try_into().map(|bytes| LedgerId(u128::from_be_bytes(bytes))).map_err(|_| StoreError::NoLedger)
}

/// A text as the server holds it, which knows no NUL.
fn held(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A point in time as `timestamptz`: microseconds since 2000. What it can't hold is infinite.
#[derive(Debug, Clone, Copy)]
struct At(EpochMs);

const EPOCH_2000_MS: i64 = 946_684_800_000;
/// 4713 BC and the year 294276, where `timestamptz` ends.
const RANGE_US: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

impl ToSql for At {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let us = self.0.0.saturating_sub(EPOCH_2000_MS).saturating_mul(1_000);
        let us = match us {
            _ if us < RANGE_US.start => i64::MIN,
            _ if us >= RANGE_US.end => i64::MAX,
            _ => us,
        };
        out.put_i64(us);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }

    to_sql_checked!();
}

impl FromSql<'_> for At {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let us = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(EpochMs(us.div_euclid(1_000).saturating_add(EPOCH_2000_MS))))
    }

    fn accepts(ty: &Type) -> bool {
        <Self as ToSql>::accepts(ty)
    }
}

/// The columns [`ROW`] from `base` on.
fn window_at(row: &Row, base: usize) -> Result<StoredWindow, StoreError> {
    let whole = |at: usize| row.try_get::<_, i64>(base + at);
    let real = |at: usize| row.try_get::<_, f64>(base + at);
    let sample = |at: usize| {
        let (time, slot, index) = (EpochMs(whole(at)?), whole(at + 1)? as u64, whole(at + 2)? as u32);
        Ok::<_, tokio_postgres::Error>(Sample { time, slot, index, value: real(at + 3)? })
    };
    let (count, ends, samples) = (whole(1)? as u64, [real(2)?, real(3)?], [sample(4)?, sample(8)?]);
    let spread = row.try_get::<_, &[u8]>(base + 17)?;
    Ok(StoredWindow {
        start: row.try_get::<_, At>(base)?.0,
        aggregate: Aggregate::restore(count, ends, samples, whole(12)? as u64, spread)?,
        late: whole(13)? as u64,
        parts: whole(14)? as u64,
        set_aside: whole(15)? as u64,
        sequences: sequences_from(row.try_get::<_, Option<&[u8]>>(base + 16)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_what_the_database_holds_are_infinite() {
        let bytes = |ms: i64| {
            let mut out = BytesMut::new();
            At(EpochMs(ms)).to_sql(&Type::TIMESTAMPTZ, &mut out).unwrap();
            i64::from_be_bytes(out[..].try_into().unwrap())
        };
        assert_eq!((bytes(i64::MIN), bytes(i64::MAX)), (i64::MIN, i64::MAX));
        for ms in [0, -1, 1_764_000_000_001, EPOCH_2000_MS, -62_135_596_800_000, 253_402_300_799_999] {
            let read = At::from_sql(&Type::TIMESTAMPTZ, &bytes(ms).to_be_bytes()).unwrap();
            assert_eq!(read.0, EpochMs(ms));
        }
    }
}
