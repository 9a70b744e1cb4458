//! The settings of the query API: where it listens, who may ask, and SQL.

use super::{HttpSettings, NodeSettings, SettingsError};
use selvedge_guard::access::{Access, Door, Scope, WrongDoor};
use selvedge_guard::browser::Browsers;
use serde::{Deserialize, Serialize};

/// The section `http.sql`: whether `POST /v1/sql` answers, and its bounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlSettings {
    /// Whether it is answered at all.
    pub enabled: bool,
    /// How long a statement may run.
    pub timeout_ms: u64,
    /// The most rows of an answer.
    pub limit_rows: u32,
    /// The most bytes of an answer's values.
    pub limit_bytes: u64,
}

impl Default for SqlSettings {
    fn default() -> Self {
        Self { enabled: false, timeout_ms: 10_000, limit_rows: 10_000, limit_bytes: 16 * 1024 * 1024 }
    }
}

fn wrong(key: impl Into<String>, why: impl Into<String>) -> SettingsError {
    SettingsError::Wrong { key: key.into(), why: why.into() }
}

impl NodeSettings {
    /// Which web pages may ask.
    pub fn browsers(&self) -> Browsers {
        Browsers { hosts: self.http.hosts.clone(), tokens: !self.http.tokens.is_empty() }
    }

    /// Reads the tokens, and checks who may ask what.
    ///
    /// # Errors
    /// Names the first setting that is wrong, or leaves the data open to the network.
    pub(crate) fn access(&self) -> Result<Access, SettingsError> {
        let HttpSettings { host, open, tokens, sql, .. } = &self.http;
        for (key, value) in [
            ("timeout_ms", sql.timeout_ms),
            ("limit_rows", sql.limit_rows.into()),
            ("limit_bytes", sql.limit_bytes),
        ] {
            if value == 0 {
                return Err(wrong(format!("http.sql.{key}"), "has to be at least 1"));
            }
        }
        let door = Door { key: "http.host", ip: *host, open: *open, tokens, scopes: &Scope::OF_NODE };
        door.access().map_err(|WrongDoor { key, why }| SettingsError::Wrong { key, why })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ENV_PREFIX;
    use selvedge_guard::access::TokenDigest;

    fn load(pairs: &[(&str, &str)]) -> NodeSettings {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        selvedge_config::load_from(None, ENV_PREFIX, [], &pairs).unwrap()
    }

    fn said(pairs: &[(&str, &str)]) -> String {
        load(pairs).access().err().unwrap().to_string()
    }

    #[test]
    fn the_network_is_shut_out_unless_there_is_a_token_or_it_is_wanted() {
        let hash = TokenDigest::of("x").to_string();
        let tokens = format!("[{{ name = \"a\", token_sha256 = \"{hash}\", scopes = [\"read\"] }}]");
        assert!(load(&[]).access().unwrap().is_open());
        assert!(load(&[("http.host", "::1")]).access().unwrap().is_open());
        let refused = said(&[("http.host", "0.0.0.0")]);
        assert!(refused.contains("`http.host`") && refused.contains("http.open"), "{refused}");
        assert!(load(&[("http.host", "0.0.0.0"), ("http.open", "true")]).access().unwrap().is_open());
        assert!(!load(&[("http.host", "0.0.0.0"), ("http.tokens", &tokens)]).access().unwrap().is_open());
        assert!(said(&[("http.open", "true"), ("http.tokens", &tokens)]).contains("`http.open`"));
    }

    #[test]
    fn tokens_that_make_no_sense_are_named() {
        let hash = TokenDigest::of("x").to_string();
        let one = |rest: &str| said(&[("http.tokens", &format!("[{{ name = \"a\", {rest} }}]"))]);
        let digest = format!("token_sha256 = \"{hash}\"");
        for (rest, right) in [
            ("scopes = [\"read\"]".to_string(), "`token_sha256` or `token_file`"),
            (format!("{digest}, scopes = []"), "read, sql, live, edge, metrics"),
            ("token_sha256 = \"12\", scopes = [\"read\"]".to_string(), "64 hexadecimal digits"),
            ("token_file = \"/nowhere/x\", scopes = [\"read\"]".to_string(), "/nowhere/x"),
            (format!("{digest}, scopes = [\"sql\"], sites = [\"plant-7\"]"), "all sites"),
        ] {
            let said = one(&rest);
            assert!(said.contains(right) && said.contains("http.tokens[0]"), "{said}");
        }
        let item = format!("{{ name = \"a\", {digest}, scopes = [\"read\"] }}");
        assert!(said(&[("http.tokens", &format!("[{item}, {item}]"))]).contains("twice"));
        assert!(said(&[("http.sql.limit_rows", "0")]).contains("`http.sql.limit_rows`"));
    }

    #[cfg(unix)]
    #[test]
    fn a_token_file_holds_the_token_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " secret\n").unwrap();
        let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let tokens =
            format!("[{{ name = \"a\", token_file = \"{}\", scopes = [\"read\"] }}]", path.display());
        set(0o644);
        assert!(said(&[("http.tokens", &tokens)]).contains("chmod 600"));
        set(0o600);
        let access = load(&[("http.tokens", &tokens)]).access().unwrap();
        assert!(access.admit(Some("Bearer secret"), Scope::Read).is_ok());
    }
}
