//! Parameters that only a node has: which streams of all sites are wanted, and the places at which its pages go on.

use selvedge_types::params::{BadParameter, Parameters};
use selvedge_types::pattern::Pattern;
use selvedge_types::time::EpochMs;

/// Which streams are asked for; what is nothing leaves all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WantedStreams {
    pub site: Option<Pattern>,
    pub device: Option<Pattern>,
    pub stream: Option<Pattern>,
    /// Of devices whose name holds this, in upper or lower case.
    pub search: Option<String>,
}

impl WantedStreams {
    /// Reads `site`, `device`, `stream` and `q`.
    ///
    /// # Errors
    /// Names the parameter that is wrong.
    pub fn read(p: &Parameters) -> Result<Self, BadParameter> {
        Ok(Self {
            site: p.pattern("site")?,
            device: p.pattern("device")?,
            stream: p.pattern("stream")?,
            search: p.text("q")?.map(str::to_string),
        })
    }
}

/// Where an answer ended: a series and the start of its next window or span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowPlace {
    /// The series' row number.
    pub series: i64,
    /// The start to continue from in that series.
    pub start: EpochMs,
}

impl WindowPlace {
    /// Reads what [`WindowPlace::to_string`] gave.
    pub fn parse(text: &str) -> Option<Self> {
        let (series, start) = text.split_once('.')?;
        Some(Self { series: series.parse().ok()?, start: EpochMs(start.parse().ok()?) })
    }
}

impl std::fmt::Display for WindowPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.series, self.start.0)
    }
}

/// The place where a page of names ended, by its last names. Clients treat it as an opaque text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesPlace(pub Vec<String>);

impl NamesPlace {
    /// Reads what [`NamesPlace::to_string`] gave, if it has `names` names.
    pub fn parse(text: &str, names: usize) -> Option<Self> {
        let name_of = |text: &str| {
            let digits: Option<Vec<u8>> = text.chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
            let digits = digits.filter(|d| d.len() % 2 == 0)?;
            let bytes = digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |high, low| high << 4 | low));
            String::from_utf8(bytes.collect()).ok()
        };
        let all = text.split('-').map(name_of).collect::<Option<Vec<String>>>()?;
        (all.len() == names).then_some(Self(all))
    }
}

impl std::fmt::Display for NamesPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            f.write_str(if at > 0 { "-" } else { "" })?;
            name.bytes().try_for_each(|b| write!(f, "{b:02x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_list_of_names_is_written_and_read() {
        let place = NamesPlace(vec!["plant-7".into(), "a\0-ä".into(), String::new()]);
        assert_eq!(NamesPlace::parse(&place.to_string(), 3), Some(place.clone()));
        for (text, names) in [(place.to_string().as_str(), 2), ("6", 1), ("ff", 1), ("xy", 1), ("7.3", 1)] {
            assert_eq!(NamesPlace::parse(text, names), None, "{text}");
        }
    }
}
