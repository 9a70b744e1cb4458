//! `selvedge-node token`: a new token for the query API, and the settings that admit it.

use clap::Args;
use ring::rand::{SecureRandom, SystemRandom};
use selvedge_guard::access::{Scope, TokenDigest};
use selvedge_types::ids::SiteId;

/// How many random bytes a token has.
const TOKEN_BYTES: usize = 32;

/// What every token begins with, so that one that has got somewhere is found there.
const PREFIX: &str = "selvedge_";

/// Create a token for HTTP: print it, and the lines for the settings that admit it.
///
/// The token is printed only this once; the settings hold its SHA-256.
#[derive(Args)]
pub struct TokenArguments {
    /// Name of the token's holder.
    #[arg(long, default_value = "reader")]
    name: String,
    /// Scopes of the token: read, sql, live, edge, metrics; at a gateway read, operate, metrics. Repeatable, or with commas.
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', default_value = "read")]
    scope: Vec<Scope>,
    /// Limit the token to these sites. Repeatable, or with commas.
    #[arg(long, value_name = "SITE", value_delimiter = ',', value_parser = site)]
    site: Vec<SiteId>,
}

fn site(text: &str) -> Result<SiteId, String> {
    SiteId::new(text).map_err(|why| why.to_string())
}

impl TokenArguments {
    /// Whose settings the lines are for: a node refuses a scope that only gateways know, and the other way round.
    ///
    /// # Errors
    /// When neither of the two knows all of these scopes.
    pub fn holder(&self) -> Result<&'static str, String> {
        let all_of = |known: &[Scope]| self.scope.iter().all(|scope| known.contains(scope));
        // A gateway has one site, so a token of a gateway names none.
        match (all_of(&Scope::OF_NODE), all_of(&Scope::OF_GATEWAY) && self.site.is_empty()) {
            (true, true) => Ok("the node's or a gateway's settings"),
            (true, false) => Ok("the node's settings"),
            (false, true) => Ok("a gateway's settings"),
            (false, false) => {
                let list =
                    |known: &[Scope]| known.iter().map(Scope::to_string).collect::<Vec<_>>().join(", ");
                Err(format!(
                    "no program takes such a token: a node knows the scopes {}, and a gateway knows {} and no --site; create one token \
                     for each",
                    list(&Scope::OF_NODE),
                    list(&Scope::OF_GATEWAY)
                ))
            }
        }
    }

    /// The token, and the lines for the settings.
    ///
    /// # Errors
    /// When the operating system has no randomness, or these scopes and sites don't go together.
    pub fn make(&self) -> Result<(String, String), String> {
        self.holder()?;
        if !self.site.is_empty() && self.scope.contains(&Scope::Sql) {
            return Err("SQL reads all sites, so a token with --site can't have the scope sql".to_string());
        }
        let mut bytes = [0u8; TOKEN_BYTES];
        let random = SystemRandom::new().fill(&mut bytes);
        random.map_err(|_| "the operating system gave no random bytes".to_string())?;
        let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let token = format!("{PREFIX}{digits}");
        let list = |all: Vec<String>| all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ");
        let scopes = list(self.scope.iter().map(Scope::to_string).collect());
        let sites = match self.site.as_slice() {
            [] => String::new(),
            sites => format!("sites = [{}]\n", list(sites.iter().map(SiteId::to_string).collect())),
        };
        // JSON's quoting is valid for TOML's basic strings.
        let name = serde_json::Value::from(self.name.as_str());
        let digest = TokenDigest::of(&token);
        Ok((
            token,
            format!(
                "[[http.tokens]]\nname = {name}\ntoken_sha256 = \"{digest}\"\nscopes = [{scopes}]\n{sites}"
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_lets_the_token_in() {
        let arguments = |scope: &[Scope], site: &[&str]| TokenArguments {
            name: "a \"b\"".into(),
            scope: scope.to_vec(),
            site: site.iter().map(|site| SiteId::new(*site).unwrap()).collect(),
        };
        let (token, lines) = arguments(&[Scope::Read, Scope::Live], &["plant-7"]).make().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        std::fs::write(&file, &lines).unwrap();
        let settings: crate::settings::NodeSettings =
            selvedge_config::load_from(Some(&file), crate::settings::ENV_PREFIX, [], &[]).unwrap();
        let access = settings.access().unwrap();
        let caller = access.admit(Some(&format!("Bearer {token}")), Scope::Live).unwrap();
        assert!(caller.sees("plant-7") && !caller.sees("plant-8"));
        assert!(!lines.contains(&token) && token.len() == PREFIX.len() + 2 * TOKEN_BYTES);
        assert_ne!(arguments(&[Scope::Read], &[]).make().unwrap().0, token);
        let holder = |scope: &[Scope], site: &[&str]| arguments(scope, site).holder();
        assert_eq!(holder(&[Scope::Read], &[]), Ok("the node's or a gateway's settings"));
        assert_eq!(holder(&[Scope::Read], &["plant-7"]), Ok("the node's settings"));
        assert_eq!(holder(&[Scope::Read, Scope::Live], &[]), Ok("the node's settings"));
        assert_eq!(holder(&[Scope::Operate, Scope::Read], &[]), Ok("a gateway's settings"));
        let neither = arguments(&[Scope::Operate, Scope::Live], &[]).make().unwrap_err();
        assert!(neither.contains("a gateway knows read, operate, metrics"), "{neither}");
        assert!(arguments(&[Scope::Operate], &["plant-7"]).make().is_err());
        assert!(arguments(&[Scope::Sql], &["plant-7"]).make().is_err());
    }
}
