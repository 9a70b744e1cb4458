//! The payload of Sparkplug B messages (protobuf), as far as it carries single values.
//!
//! Hand-written for `prost`, field numbers after the Eclipse Sparkplug 3.0.0 specification, chapter 6.
//! Fields that are not here (metadata, properties, data sets, templates, extensions) are skipped
//! when read and never written: a metric whose value is one of those arrives with no value.
//!
//! Limit: [`Payload::read`] refuses more metrics than its caller allows before any is allocated, since two
//! bytes of payload can claim a whole metric.

use prost::Message;

/// The first level of every Sparkplug B topic.
pub const NAMESPACE: &str = "spBv1.0";

/// The metric by which a host asks an edge node to send its births again.
pub const REBIRTH_METRIC: &str = "Node Control/Rebirth";

/// Numbers of the data types that a metric may name.
pub mod data_type {
    /// A signed number of 8 bits.
    pub const INT8: u32 = 1;
    /// A signed number of 16 bits.
    pub const INT16: u32 = 2;
    /// A signed number of 32 bits.
    pub const INT32: u32 = 3;
    /// A signed number of 64 bits.
    pub const INT64: u32 = 4;
    /// An unsigned number of 8 bits.
    pub const UINT8: u32 = 5;
    /// An unsigned number of 16 bits.
    pub const UINT16: u32 = 6;
    /// An unsigned number of 32 bits.
    pub const UINT32: u32 = 7;
    /// An unsigned number of 64 bits.
    pub const UINT64: u32 = 8;
    /// A number of single precision (IEEE 754).
    pub const FLOAT: u32 = 9;
    /// A number of double precision (IEEE 754).
    pub const DOUBLE: u32 = 10;
    /// True or false, in the field `boolean_value`.
    pub const BOOLEAN: u32 = 11;
    /// Text, in the field `string_value`.
    pub const STRING: u32 = 12;
    /// Milliseconds since 1970-01-01 UTC.
    pub const DATE_TIME: u32 = 13;
    /// A table of values, which is no reading.
    pub const DATA_SET: u32 = 16;
    /// Metrics within a metric.
    pub const TEMPLATE: u32 = 19;
}

/// What a birth, data or command message says.
#[derive(Clone, PartialEq, Message)]
pub struct Payload {
    /// When it was sent, in milliseconds since 1970-01-01 UTC.
    #[prost(uint64, optional, tag = "1")]
    pub timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    pub metrics: Vec<Metric>,
    /// 0 to 255 and again from 0, one count for all messages of an edge node: it shows gaps, but names
    /// nothing for good.
    #[prost(uint64, optional, tag = "3")]
    pub seq: Option<u64>,
    /// What kind of payload it is; a compressed one says so here.
    #[prost(string, optional, tag = "4")]
    pub uuid: Option<String>,
    /// What such a payload carries.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub body: Option<Vec<u8>>,
}

/// One value of one metric.
#[derive(Clone, PartialEq, Message)]
pub struct Metric {
    /// Its name; a data message may leave it out if the birth gave an alias.
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    /// A number for the name, unique within the edge node from one birth to the next.
    #[prost(uint64, optional, tag = "2")]
    pub alias: Option<u64>,
    /// When it was measured, in milliseconds since 1970-01-01 UTC.
    #[prost(uint64, optional, tag = "3")]
    pub timestamp: Option<u64>,
    /// One of [`data_type`]; a data message may leave it out.
    #[prost(uint32, optional, tag = "4")]
    pub datatype: Option<u32>,
    /// It was measured some time ago and kept.
    #[prost(bool, optional, tag = "5")]
    pub is_historical: Option<bool>,
    /// It is not meant to be stored.
    #[prost(bool, optional, tag = "6")]
    pub is_transient: Option<bool>,
    /// It has no value now.
    #[prost(bool, optional, tag = "7")]
    pub is_null: Option<bool>,
    #[prost(oneof = "MetricValue", tags = "10, 11, 12, 13, 14, 15, 16")]
    pub value: Option<MetricValue>,
}

/// A metric's value. Signed integers are in two's complement of 32 or 64 bits.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum MetricValue {
    /// Integers of up to 32 bits.
    #[prost(uint32, tag = "10")]
    Int(u32),
    /// Integers of 64 bits and times.
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(float, tag = "12")]
    Float(f32),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Boolean(bool),
    #[prost(string, tag = "15")]
    Text(String),
    #[prost(bytes = "vec", tag = "16")]
    Bytes(Vec<u8>),
}

/// Why bytes are no payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SparkplugError {
    /// They are not protobuf, or damaged.
    #[error("it is not a Sparkplug B payload: its protobuf is damaged, cut off, or of another kind")]
    Malformed,
    /// More than the caller takes.
    #[error("it holds {found} metrics; at most {most} are allowed in one message")]
    TooMany {
        /// How many are there, at least.
        found: usize,
        /// How many may be.
        most: usize,
    },
}

impl Payload {
    /// Reads a payload of at most `most` metrics.
    ///
    /// # Errors
    /// [`SparkplugError`] when it is damaged or holds more.
    pub fn read(bytes: &[u8], most: usize) -> Result<Self, SparkplugError> {
        let found = count_metrics(bytes).ok_or(SparkplugError::Malformed)?;
        if found > most {
            return Err(SparkplugError::TooMany { found, most });
        }
        Self::decode(bytes).map_err(|_| SparkplugError::Malformed)
    }

    /// The payload in protobuf, as a device sends it.
    pub fn write(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    /// The command that asks an edge node for its births.
    pub fn rebirth(now_ms: u64) -> Self {
        let metric = Metric {
            name: Some(REBIRTH_METRIC.into()),
            timestamp: Some(now_ms),
            datatype: Some(data_type::BOOLEAN),
            value: Some(MetricValue::Boolean(true)),
            ..Metric::default()
        };
        Self { timestamp: Some(now_ms), metrics: vec![metric], ..Self::default() }
    }
}

/// How many metrics the outermost fields hold, without reading them.
fn count_metrics(mut rest: &[u8]) -> Option<usize> {
    let mut found = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let length = match key & 7 {
            0 => {
                varint(&mut rest)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            _ => return None,
        };
        rest = rest.get(length..)?;
        found += usize::from(key == 2 << 3 | 2);
    }
    Some(found)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        let metric = Metric {
            name: Some("temp".into()),
            alias: Some(7),
            timestamp: Some(1_764_000_000_000),
            datatype: Some(data_type::FLOAT),
            value: Some(MetricValue::Float(21.5)),
            ..Metric::default()
        };
        Payload { timestamp: Some(1), metrics: vec![metric], seq: Some(3), ..Payload::default() }
    }

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let golden = [
            0x08, 0x01, 0x12, 0x16, 0x0a, 0x04, b't', b'e', b'm', b'p', 0x10, 0x07, 0x18, 0x80, 0xd0, 0xdf,
            0xb4, 0xab, 0x33, 0x20, 0x09, 0x65, 0x00, 0x00, 0xac, 0x41, 0x18, 0x03,
        ];
        assert_eq!(payload().write(), golden);
        assert_eq!(Payload::read(&golden, 1).unwrap(), payload());
    }

    #[test]
    fn unknown_fields_are_skipped() {
        // Field 6 at the payload, properties (9) and a data set (17) at the metric.
        let bytes =
            [0x12, 0x0a, 0x0a, 0x01, b'x', 0x4a, 0x01, 0xff, 0x8a, 0x01, 0x01, 0xff, 0x32, 0x01, b'u'];
        let read = Payload::read(&bytes, 1).unwrap();
        assert_eq!(read.metrics, [Metric { name: Some("x".into()), ..Metric::default() }]);
    }

    #[test]
    fn too_many_metrics_and_damage_are_refused() {
        let many = [0x12, 0x00].repeat(5);
        assert_eq!(Payload::read(&many, 4), Err(SparkplugError::TooMany { found: 5, most: 4 }));
        let whole = payload().write();
        for cut in [1, 3, 9, whole.len() - 1] {
            assert!(matches!(Payload::read(&whole[..cut], 9), Err(SparkplugError::Malformed)), "{cut}");
        }
        assert!(Payload::read(&[0xff; 11], 9).is_err());
        assert!(
            Payload::read(&[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], 9).is_err()
        );
    }

    #[test]
    fn a_rebirth_command_reads_back() {
        let read = Payload::read(&Payload::rebirth(5).write(), 1).unwrap();
        assert_eq!(read.metrics[0].name.as_deref(), Some("Node Control/Rebirth"));
        assert_eq!(read.metrics[0].value, Some(MetricValue::Boolean(true)));
    }
}
