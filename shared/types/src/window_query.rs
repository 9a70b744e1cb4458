//! The query for windows: what every path that answers windows asks alike, read in one place, so that defaults, bounds and errors are
//! the same at a gateway, at a node, and where a node asks a site. What only one of them knows (spans of a calendar, consistency) is read
//! beside it.

use crate::params::{BadParameter, Parameters};
use crate::pattern::Pattern;
use crate::time::EpochMs;

/// A query for windows of devices' streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowQuery {
    /// A device, or a pattern of devices, that [`Pattern::parse`] takes; all devices if it is not given.
    pub device: Option<String>,
    /// A stream, or a pattern of streams, likewise.
    pub stream: Option<String>,
    /// The earliest time; the earliest of all if it is not given, since a reading of long ago may have come just now.
    pub from: EpochMs,
    /// The first time that is too late.
    pub to: EpochMs,
    /// The most rows of the answer.
    pub limit: u32,
}

impl WindowQuery {
    /// Reads `device`, `stream`, `from`, `to` and `limit`.
    ///
    /// # Errors
    /// Names the parameter that is wrong.
    pub fn read(p: &Parameters) -> Result<Self, BadParameter> {
        let name = |parameter: &str| {
            p.pattern(parameter)?;
            Ok(p.text(parameter)?.map(str::to_string))
        };
        let (from, to) = p.from_to()?;
        Ok(Self { device: name("device")?, stream: name("stream")?, from, to, limit: p.limit()? })
    }

    /// Which devices are wanted, if not all.
    pub fn devices(&self) -> Option<Pattern> {
        self.device.as_deref().map(Pattern::read)
    }

    /// Which streams of them are wanted, if not all.
    pub fn streams(&self) -> Option<Pattern> {
        self.stream.as_deref().map(Pattern::read)
    }
}
