//! What settings say of who may ask over HTTP, read and checked in one way by all programs.

use super::{Access, DIGEST_BYTES, Scope, Token, TokenDigest};
use crate::private::read_secret;
use selvedge_types::ids::SiteId;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// A token and its rights. Exactly one of `token_sha256` and `token_file` is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenSettings {
    pub name: String,
    /// The SHA-256 of the token, in hexadecimal, as `selvedge-node token` prints it.
    #[serde(default)]
    pub token_sha256: Option<String>,
    /// The file that holds the token itself.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// What it is good for.
    pub scopes: Vec<Scope>,
    /// The only sites that it shows; empty for all.
    #[serde(default)]
    pub sites: Vec<SiteId>,
}

/// What settings say of the door.
#[derive(Debug, Clone, Copy)]
pub struct Door<'a> {
    /// The key of the address that is listened on.
    pub key: &'static str,
    pub ip: IpAddr,
    /// Whether all that reach an address that is not loopback may ask without a token: `http.open`.
    pub open: bool,
    /// The tokens that the setting `http.tokens` lists.
    pub tokens: &'a [TokenSettings],
    /// The scopes that mean something here.
    pub scopes: &'a [Scope],
}

/// A setting that is wrong, or leaves the door open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the setting `{key}`: {why}")]
pub struct WrongDoor {
    pub key: String,
    /// What is wrong, and what would be right.
    pub why: String,
}

fn wrong(key: impl Into<String>, why: impl Into<String>) -> WrongDoor {
    WrongDoor { key: key.into(), why: why.into() }
}

impl Door<'_> {
    /// Reads the tokens, and checks who may ask what.
    ///
    /// # Errors
    /// Names the first setting that is wrong, or leaves the door open to the network.
    pub fn access(&self) -> Result<Access, WrongDoor> {
        if self.tokens.is_empty() && !self.ip.is_loopback() && !self.open {
            let why = format!(
                "there is no token, and others can reach {}: add [[http.tokens]] (`selvedge-node token` prints one), listen on 127.0.0.1, \
                 or set http.open = true",
                self.ip
            );
            return Err(wrong(self.key, why));
        }
        if !self.tokens.is_empty() && self.open {
            return Err(wrong("http.open", "there are tokens, so it is not open; remove one or the other"));
        }
        let mut all: Vec<Token> = vec![];
        for (i, settings) in self.tokens.iter().enumerate() {
            let token = self.token(settings, &format!("http.tokens[{i}]"))?;
            if all.iter().any(|other| other.name == token.name || other.digest == token.digest) {
                let why = format!("{:?} or its token is listed twice", token.name);
                return Err(wrong(format!("http.tokens[{i}].name"), why));
            }
            all.push(token);
        }
        Ok(Access::new(all))
    }

    fn token(&self, settings: &TokenSettings, key: &str) -> Result<Token, WrongDoor> {
        let digest = match (&settings.token_sha256, &settings.token_file) {
            (Some(hex), None) => TokenDigest::from_hex(hex).ok_or_else(|| {
                let why =
                    format!("is not {} hexadecimal digits; see `selvedge-node token`", 2 * DIGEST_BYTES);
                wrong(format!("{key}.token_sha256"), why)
            })?,
            (None, Some(file)) => {
                TokenDigest::of(&read_secret(file).map_err(|why| wrong(format!("{key}.token_file"), why))?)
            }
            _ => {
                let why = format!("{:?} needs either `token_sha256` or `token_file`", settings.name);
                return Err(wrong(key, why));
            }
        };
        if settings.scopes.is_empty() || settings.scopes.iter().any(|scope| !self.scopes.contains(scope)) {
            let all: Vec<_> = self.scopes.iter().map(Scope::to_string).collect();
            let why = match settings.scopes.iter().find(|scope| !self.scopes.contains(scope)) {
                Some(other) => format!("{other} is unknown; there are: {}", all.join(", ")),
                None => format!("there is none; there are: {}", all.join(", ")),
            };
            return Err(wrong(format!("{key}.scopes"), why));
        }
        if !settings.sites.is_empty() && settings.scopes.contains(&Scope::Sql) {
            let why = "SQL reads all sites, so a token with `sites` can't have the scope `sql`";
            return Err(wrong(format!("{key}.scopes"), why));
        }
        let sites = settings.sites.iter().map(|site| site.to_string());
        Ok(Token {
            name: settings.name.clone(),
            digest,
            scopes: settings.scopes.clone(),
            sites: (!settings.sites.is_empty()).then(|| sites.collect()),
        })
    }
}
