//! Whose readings a row of an answer holds: one stream's, or those of several that are merged by `group_by`.

use super::params::{BadParameter, Parameters};
use super::stored::SeriesInfo;

/// Whose readings a row holds; what is merged is left out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Owner {
    /// The site.
    pub site: Option<String>,
    /// The device.
    pub device: Option<String>,
    /// The stream.
    pub stream: Option<String>,
}

/// What tells rows apart: what is not named is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// By site.
    pub site: bool,
    /// By device.
    pub device: bool,
    /// By stream.
    pub stream: bool,
}

impl GroupBy {
    /// Nothing is merged.
    pub const ALL: Self = Self { site: true, device: true, stream: true };

    /// Whose row a series of this query is in.
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
