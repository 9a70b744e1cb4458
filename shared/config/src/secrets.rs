//! Refuses secrets where others could read them: on a command line, and in a file that is open to others.

use super::{SettingsLoadError, parse_toml};
use config::{Map, Value, ValueKind};
use selvedge_guard::private::check_private;
use std::path::Path;

/// Checks that no override holds a secret.
///
/// # Errors
/// Names the first key that does, and where it belongs.
pub fn not_on_the_command_line(
    prefix: &str,
    overrides: &[(String, String)],
) -> Result<(), SettingsLoadError> {
    for (key, text) in overrides {
        // A list or a table is written as in TOML.
        let structured =
            text.starts_with(['[', '{']).then(|| parse_toml(&format!("value = {text}")).ok()).flatten();
        let value = structured
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| Value::new(None, text.as_str()));
        if let Some(key) = secret_in(key, &value) {
            let variable = key.split('[').next().unwrap_or_default().to_uppercase().replace('.', "__");
            let instead = format!(
                "set it in the settings file (`chmod 600`), by the environment variable {prefix}_{variable}, or name a file that \
                 holds it where there is a key for that"
            );
            return Err(SettingsLoadError::Exposed {
                key,
                place: "on a command line, which every user of the machine can read",
                instead,
            });
        }
    }
    Ok(())
}

/// Checks that a settings file with a secret in it is closed to others; loading reports everything else that is wrong with it.
///
/// # Errors
/// Names the first secret, the file, and the command that closes it.
pub fn not_in_an_open_file(path: &Path) -> Result<(), SettingsLoadError> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(()) };
    let Err(open) = check_private(&file, path) else { return Ok(()) };
    let values =
        std::fs::read_to_string(path).ok().and_then(|text| parse_toml(&text).ok()).unwrap_or_default();
    match secret_in("", &Value::new(None, values)) {
        Some(key) => {
            Err(SettingsLoadError::Exposed { key, place: "in a file that others can read", instead: open })
        }
        None => Ok(()),
    }
}

/// The key of the first secret.
fn secret_in(key: &str, value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Table(table) => secret_of(key, table),
        ValueKind::Array(list) => {
            list.iter().enumerate().find_map(|(i, item)| secret_in(&format!("{key}[{i}]"), item))
        }
        ValueKind::String(text) => {
            let secret = !text.is_empty() && (is_named_like_one(key) || has_password(text));
            secret.then(|| key.to_string())
        }
        // A password of digits alone.
        ValueKind::Nil => None,
        _ => is_named_like_one(key).then(|| key.to_string()),
    }
}

fn secret_of(key: &str, table: &Map<String, Value>) -> Option<String> {
    let mut fields: Vec<_> = table.iter().collect();
    fields.sort_by_key(|(name, _)| name.as_str());
    fields.into_iter().find_map(|(name, value)| secret_in(&super::join(key, name), value))
}

/// Whether what stands there is a secret itself, not the name of a file with one, nor an image of one.
fn is_named_like_one(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key);
    let name = name.split('[').next().unwrap_or(name);
    let harmless = ["_file", "_files", "_sha256", "tokens"].iter().any(|end| name.ends_with(end));
    !harmless && ["secret", "password", "token", "psk"].iter().any(|word| name.contains(word))
}

/// Whether it is an address that has a password in it.
fn has_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let in_query = rest.split_once('?').is_some_and(|(_, query)| {
        query
            .split('&')
            .any(|pair| pair.to_ascii_lowercase().starts_with("password=") && pair.len() > "password=".len())
    });
    user.split_once(':').is_some_and(|(_, password)| !password.is_empty()) || in_query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_on_the_command_line_is_refused_by_name_and_not_shown() {
        let said = |key: &str, text: &str| {
            let refused = not_on_the_command_line("SELVEDGE_NODE", &[(key.to_string(), text.to_string())]);
            refused.err().map(|error| error.to_string())
        };
        for (key, text, named) in [
            ("uplink.password", "hunter2", "`uplink.password`"),
            ("uplink.password", "123456", "SELVEDGE_NODE_UPLINK__PASSWORD"),
            ("database", "postgres://me:hunter2@db/plant", "`database`"),
            ("database", "postgres://me@db/plant?password=hunter2", "SELVEDGE_NODE_DATABASE"),
            ("sites", "[{ name = \"a\", secret = \"hunter2\" }]", "`sites[0].secret`"),
            ("uplink", "{ username = \"u\", password = \"hunter2\" }", "`uplink.password`"),
        ] {
            let said = said(key, text).unwrap_or_else(|| panic!("{key}={text} is taken"));
            assert!(said.contains(named) && said.contains("command line"), "{said}");
            assert!(!said.contains("hunter2") && !said.contains("123456"), "{said}");
        }
        let digest = "[{ name = \"a\", token_sha256 = \"00\", scopes = [\"read\"] }]";
        for (key, text) in [
            ("uplink.password_file", "/etc/x"),
            ("site.secret_file", "/etc/x"),
            ("sites", "[{ name = \"a\", secret_file = \"/x\", accept_secret_files = [\"/y\"] }]"),
            ("http.tokens", digest),
            ("http.tokens", "[]"),
            ("database", "sqlite"),
            ("database", "postgres://me@db:5432/plant"),
            ("lake.url", "s3://bucket/path"),
            ("uplink.password", ""),
        ] {
            assert_eq!(said(key, text), None, "{key}={text}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_settings_file_with_a_secret_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        let said = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            not_in_an_open_file(&path).err().map(|error| error.to_string())
        };
        for secret in [
            "database = \"postgres://me:hunter2@db/x\"",
            "[uplink]\npassword = \"hunter2\"",
            "[[sites]]\nsecret = \"hunter2\"",
        ] {
            let open = said(secret, 0o644).unwrap_or_else(|| panic!("{secret} is taken"));
            assert!(
                open.contains("chmod 600") && open.contains("node.toml") && !open.contains("hunter2"),
                "{open}"
            );
            assert_eq!(said(secret, 0o600), None);
        }
        assert_eq!(said("[uplink]\npassword_file = \"/x\"\npassword = \"\"", 0o644), None);
    }
}
