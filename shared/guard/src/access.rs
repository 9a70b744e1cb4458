//! Access over HTTP: tokens, each with its scopes and, optionally, the sites that it is limited to.
//!
//! A token is 256 random bits. The program keeps only its SHA-256, so that neither the settings nor its memory hold a token.
//! Without any token everything is open: the settings then allow only addresses of this machine ([`door`]).

mod door;

pub use door::{Door, TokenSettings, WrongDoor};

use ring::digest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// The length of a token's digest.
pub const DIGEST_BYTES: usize = 32;

/// The longest token that is looked at.
pub const MAX_TOKEN_BYTES: usize = 512;

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everything that is read with GET: windows, devices, gaps, the ledger, status and metrics.
    Read,
    Sql,
    /// The windows as they are applied.
    Live,
    /// Questions to the sites' gateways.
    Edge,
    Metrics,
    /// What changes something: at a gateway, everything that is not asked with GET.
    Operate,
}

impl Scope {
    /// The scopes that a node knows.
    pub const OF_NODE: [Self; 5] = [Self::Read, Self::Sql, Self::Live, Self::Edge, Self::Metrics];

    /// The scopes that a gateway knows.
    pub const OF_GATEWAY: [Self; 3] = [Self::Read, Self::Operate, Self::Metrics];

    const ALL: [Self; 6] = [Self::Read, Self::Sql, Self::Live, Self::Edge, Self::Metrics, Self::Operate];

    fn covers(self, wanted: Self) -> bool {
        self == wanted || (self == Self::Read && wanted == Self::Metrics)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Sql => "sql",
            Self::Live => "live",
            Self::Edge => "edge",
            Self::Metrics => "metrics",
            Self::Operate => "operate",
        })
    }
}

impl std::str::FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = || Self::ALL.map(|scope| scope.to_string()).join(", ");
        Self::ALL.into_iter().find(|s| s.to_string() == text).ok_or_else(|| format!("there are: {}", all()))
    }
}

/// The image of a token that is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; DIGEST_BYTES]);

impl TokenDigest {
    /// The SHA-256 of a token's text.
    pub fn of(token: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        let mut bytes = [0; DIGEST_BYTES];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// From 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Option<Vec<u8>> = text.trim().chars().map(|c| Some(c.to_digit(16)? as u8)).collect();
        let digits = digits.filter(|d| d.len() == 2 * DIGEST_BYTES)?;
        let mut bytes = [0; DIGEST_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair.iter().fold(0, |high, low| high << 4 | low);
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A token that is known here; only its digest is kept.
#[derive(Clone)]
pub struct Token {
    /// Who holds it, for the log.
    pub name: String,
    pub digest: TokenDigest,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// The only sites that it shows; nothing for all.
    pub sites: Option<Arc<[String]>>,
}

/// The tokens that are known here; without any, everybody may ask.
#[derive(Clone, Default)]
pub struct Access {
    tokens: Vec<Token>,
}

impl fmt::Debug for Access {
    /// How many tokens there are, and nothing of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({} tokens)", self.tokens.len())
    }
}

/// A request that was admitted, and what its token may see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The only sites that may be shown; nothing for all.
    pub sites: Option<Arc<[String]>>,
}

impl Caller {
    /// Whether a site may be shown.
    pub fn sees(&self, site: &str) -> bool {
        self.sites.as_ref().is_none_or(|sites| sites.iter().any(|s| s == site))
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It shows no token.
    #[error(
        "a token is needed: send it as `Authorization: Bearer ...`; `selvedge-node token` makes one, for gateways too"
    )]
    NoToken,
    /// What it shows is none that is known.
    #[error("the token is unknown (setting `http.tokens`)")]
    Unknown,
    /// Its token lacks the scope.
    #[error("the token lacks the scope `{0}` (setting `http.tokens`)")]
    Scope(Scope),
}

impl Access {
    /// Admits these tokens; everything is open if there are none.
    pub fn new(tokens: Vec<Token>) -> Self {
        Self { tokens }
    }

    /// Whether no token is needed.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Judges a request by its `Authorization` header and the scope that it needs.
    ///
    /// # Errors
    /// When it may not be answered.
    pub fn admit(&self, authorization: Option<&str>, wanted: Scope) -> Result<Caller, Denied> {
        if self.is_open() {
            return Ok(Caller::default());
        }
        let (scheme, shown) = authorization.ok_or(Denied::NoToken)?.split_once(' ').ok_or(Denied::NoToken)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Denied::NoToken);
        }
        let shown = Some(shown.trim()).filter(|s| s.len() <= MAX_TOKEN_BYTES).ok_or(Denied::Unknown)?;
        let digest = TokenDigest::of(shown);
        // All are compared, each in a time that says nothing of where it differs.
        let mut found = None;
        for token in &self.tokens {
            if bool::from(token.digest.0.ct_eq(&digest.0)) {
                found = Some(token);
            }
        }
        let token = found.ok_or(Denied::Unknown)?;
        if token.scopes.iter().any(|scope| scope.covers(wanted)) {
            Ok(Caller { sites: token.sites.clone() })
        } else {
            Err(Denied::Scope(wanted))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let token = |text: &str, scopes: &[Scope], sites: Option<&str>| Token {
            name: text.into(),
            digest: TokenDigest::of(text),
            scopes: scopes.to_vec(),
            sites: sites.map(|site| Arc::from([site.to_string()])),
        };
        Access::new(vec![
            token("one", &[Scope::Read], Some("plant-7")),
            token("two", &[Scope::Metrics, Scope::Sql], None),
        ])
    }

    #[test]
    fn a_token_is_good_for_its_scopes_alone() {
        let access = access();
        for (header, scope, expected) in [
            (None, Scope::Read, Some(Denied::NoToken)),
            (Some("one"), Scope::Read, Some(Denied::NoToken)),
            (Some("Basic one"), Scope::Read, Some(Denied::NoToken)),
            (Some("Bearer three"), Scope::Read, Some(Denied::Unknown)),
            (Some("Bearer "), Scope::Read, Some(Denied::Unknown)),
            (Some("Bearer one"), Scope::Read, None),
            (Some("bearer  one "), Scope::Read, None),
            (Some("Bearer one"), Scope::Metrics, None),
            (Some("Bearer one"), Scope::Sql, Some(Denied::Scope(Scope::Sql))),
            (Some("Bearer two"), Scope::Sql, None),
            (Some("Bearer two"), Scope::Metrics, None),
            (Some("Bearer two"), Scope::Read, Some(Denied::Scope(Scope::Read))),
        ] {
            assert_eq!(access.admit(header, scope).err(), expected, "{header:?} {scope}");
        }
        let long = format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES + 1));
        assert_eq!(access.admit(Some(&long), Scope::Read), Err(Denied::Unknown));
    }

    #[test]
    fn sites_and_openness() {
        let caller = access().admit(Some("Bearer one"), Scope::Read).unwrap();
        assert!(caller.sees("plant-7") && !caller.sees("plant-8"));
        assert!(access().admit(Some("Bearer two"), Scope::Sql).unwrap().sees("plant-8"));
        assert!(Access::default().admit(None, Scope::Sql).unwrap().sees("plant-8"));
    }

    #[test]
    fn a_digest_is_written_and_read() {
        let digest = TokenDigest::of("one");
        let hex = "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed";
        assert_eq!(digest.to_string(), hex);
        assert!(TokenDigest::from_hex(hex) == Some(digest));
        assert!(TokenDigest::from_hex("7692").is_none() && TokenDigest::from_hex(&"x".repeat(64)).is_none());
    }
}
