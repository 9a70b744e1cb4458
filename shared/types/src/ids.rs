//! The names of sites, gateways and shards.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The longest site name, in bytes.
pub const MAX_SITE_NAME_BYTES: usize = 32;

/// The longest device name and the longest stream name, in bytes each.
pub const MAX_NAME_BYTES: usize = 256;

/// A site: a set of gateways that form one fabric. Lower-case letters, digits and hyphens, so that it
/// can stand in an MQTT topic and in a file name as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Encode, Decode)]
#[serde(try_from = "String", into = "String")]
pub struct SiteId(String);

impl SiteId {
    /// A site's name.
    ///
    /// # Errors
    /// Says what a name must look like if this is none.
    pub fn new(name: impl Into<String>) -> Result<Self, BadSiteName> {
        let name = name.into();
        let sound = (1..=MAX_SITE_NAME_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if sound { Ok(Self(name)) } else { Err(BadSiteName(name)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SiteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SiteId {
    type Error = BadSiteName;
    fn try_from(name: String) -> Result<Self, BadSiteName> {
        Self::new(name)
    }
}

impl From<SiteId> for String {
    fn from(site: SiteId) -> String {
        site.0
    }
}

/// A text that can't be a site's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "site name {0:?} is not 1 to {MAX_SITE_NAME_BYTES} lower-case letters, digits and hyphens; try for example \"plant-7\""
)]
pub struct BadSiteName(String);

/// A gateway's number, unique in its site for good.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Encode, Decode,
)]
#[serde(transparent)]
pub struct GatewayId(pub u16);

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// A shard's number: a fixed slice of the hash space, 0 up to the site's number of shards.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Encode, Decode,
)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_name_is_checked_and_the_error_shows_a_good_one() {
        assert!(SiteId::new("plant-7").is_ok());
        for bad in ["", "Plant", "a/b", "a b", &"x".repeat(33)] {
            let said = SiteId::new(bad).unwrap_err().to_string();
            assert!(said.contains("plant-7"), "{said}");
        }
    }
}
