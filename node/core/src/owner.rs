//! The owner of a row: one stream, or several streams that `group_by` merges.

use super::stored::SeriesInfo;
use selvedge_types::params::{BadParameter, Parameters};

/// The site, device and stream of a row; `None` where `group_by` merges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    pub site: Option<String>,
    pub device: Option<String>,
    pub stream: Option<String>,
}

/// What tells rows apart: what is not named is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    pub site: bool,
    pub device: bool,
    pub stream: bool,
}

impl GroupBy {
    /// A row for each stream: the query merges nothing.
    pub const ALL: Self = Self { site: true, device: true, stream: true };

    /// The owner of the row that a series of this query falls into.
    pub fn owner(self, series: &SeriesInfo) -> Owner {
        Owner {
            site: self.site.then(|| series.site.clone()),
            device: self.device.then(|| series.device.clone()),
            stream: self.stream.then(|| series.stream.clone()),
        }
    }

    /// Reads the parameter `group_by`.
    ///
    /// # Errors
    /// When it names something else than there is.
    pub fn read(p: &Parameters) -> Result<Self, BadParameter> {
        const KNOWN: &str = "site, device, stream; or none, alone";
        if p.text("group_by")? == Some("none") {
            return Ok(Self { site: false, device: false, stream: false });
        }
        let known = |name: &str| ["site", "device", "stream"].into_iter().find(|known| *known == name);
        let Some(names) = p.list("group_by", known, KNOWN)? else { return Ok(Self::ALL) };
        let has = |name| names.contains(&name);
        Ok(Self { site: has("site"), device: has("device"), stream: has("stream") })
    }
}
