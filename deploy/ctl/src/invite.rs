//! Invitations: `selvedge gateway invite` and `invitations`.

use crate::arguments::Invite;
use crate::client::{AskError, Client, Order, draw_token};
use crate::table::{Table, duration, items, number, word};
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens an invitation. Returns the gateway's answer, and what to print.
///
/// The token is drawn here, so that the order can be repeated when its answer is lost, and the file is made before
/// anything is ordered.
pub fn invite(client: &Client, invite: &Invite) -> Result<(Value, String), AskError> {
    let failed = |file: &Path| {
        let file = file.display().to_string();
        move |why| AskError::NotWritten { file, why }
    };
    let token = draw_token()?;
    if let Some(file) = &invite.write {
        write(file, &token).map_err(failed(file))?;
    }
    let Invite { replace, witness, weight, zone, lasts, write: file } = invite;
    let body = json!({
        "token": token, "replaces": replace, "witness": witness, "weight": weight, "zone": zone, "lasts_s": lasts,
    });
    let ordered = client.order(&Order::post("/v1/invitations", Some(body)));
    let mut answer = match (ordered, file) {
        (Ok(answer), _) => answer,
        (Err(e), file) => {
            // Refused, or perhaps never ordered: no token is left that may not work.
            if let Some(file) = file {
                let _ = std::fs::remove_file(file); // the error that is told is the first one
            }
            return Err(e);
        }
    };
    if file.is_some() {
        answer["token"] = Value::Null;
    }
    let text = told(&answer, &token, file.as_deref());
    Ok((answer, text))
}

/// Writes a file that only its owner may read, and that was not there before.
fn write(file: &Path, token: &str) -> std::io::Result<()> {
    let mut out: File = OpenOptions::new().create_new(true).write(true).mode(0o600).open(file)?;
    writeln!(out, "{token}")?;
    out.sync_all()
}

fn told(answer: &Value, token: &str, file: Option<&Path>) -> String {
    let lasts = duration(&json!(answer["lasts_s"].as_u64().unwrap_or(0) * 1_000));
    let what = match answer["replaces"].as_u64() {
        Some(replaced) => format!("take the place of gateway {replaced}"),
        None if answer["witness"] == true => "join as a witness".to_string(),
        None => "join".to_string(),
    };
    let mut said = format!("One new gateway may {what} within {lasts}.");
    let name = match file {
        Some(file) => {
            said += &format!(" Its token is in {}; move the file to the new box.\n", file.display());
            file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
        }
        None => {
            said += &format!(
                " Its token, which is not shown again:\n\n  {token}\n\nOn the new box, put it into a file that only its user can read (chmod \
                 600), such as join-token.\n"
            );
            "join-token".to_string()
        }
    };
    let seeds: Vec<_> = items(&answer["seeds"]).iter().filter_map(Value::as_str).collect();
    said + &format!(
        "With the site's name and secret in gateway.toml, an empty data folder, and its own address in place of NEW-BOX, start it with:\n\n  \
         selvedge-gateway --config gateway.toml --join {name} --set peer.bind=0.0.0.0:7081 --set peer.advertise=NEW-BOX:7081 --set \
         'site.seeds={}'\n",
        json!(seeds)
    )
}

/// Renders the answer of `/v1/invitations`.
pub fn list(answer: &Value) -> String {
    let all = items(&answer["invitations"]);
    if all.is_empty() {
        return "no invitation is open; `selvedge gateway invite` opens one\n".to_string();
    }
    let mut table = Table::new(&["INVITATION", "ROLE", "REPLACES", "WEIGHT", "ZONE", "EXPIRES IN"]);
    for i in all {
        table.row(vec![
            word(&i["id"]),
            word(&i["role"]),
            number(&i["replaces"]),
            number(&i["weight"]),
            word(&i["zone"]),
            duration(&i["expires_in_ms"]),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_invitations_are_listed() {
        assert!(list(&json!({ "invitations": [] })).starts_with("no invitation is open"));
        let answer = json!({ "invitations": [
            {"id": "0a1b2c3d", "role": "full", "replaces": 2, "weight": 1, "zone": "hall 1", "expires_in_ms": 3_541_000},
            {"id": "99999999", "role": "witness", "replaces": null, "weight": 2, "zone": null, "expires_in_ms": 86_400_000},
        ]});
        let wanted = "\
INVITATION  ROLE     REPLACES  WEIGHT  ZONE    EXPIRES IN
  0a1b2c3d  full            2       1  hall 1      59m 1s
  99999999  witness         -       2  -            1d 0h
";
        assert_eq!(list(&answer), wanted);
    }

    #[test]
    fn the_way_to_start_the_new_box_is_told_and_a_token_that_is_in_a_file_is_not() {
        let answer = json!({
            "replaces": 2, "witness": false, "lasts_s": 3_600, "seeds": ["10.0.0.11:7081", "10.0.0.13:7081"],
        });
        let said = told(&answer, "5f2e", None);
        for part in [
            "take the place of gateway 2 within 1h",
            "\n  5f2e\n",
            "--join join-token",
            r#"'site.seeds=["10.0.0.11:7081","10.0.0.13:7081"]'"#,
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = told(&json!({ "witness": true, "lasts_s": 60 }), "5f2e", Some(Path::new("/tmp/t one")));
        assert!(said.contains("join as a witness") && said.contains("--join t one"), "{said}");
        assert!(!said.contains("5f2e"), "{said}");
    }
}
