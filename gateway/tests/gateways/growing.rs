//! What an operator does with a site whose gateways come and go.

#![allow(dead_code, reason = "several tests share this, and each uses a part of it")]

use super::site::{Plan, until};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The record of a gateway in the directory, as gateway `i` has it; null if it is gone.
pub fn record(plan: &Plan, i: usize, gateway: u64) -> Value {
    let directory = plan.json(i, "/v1/directory");
    let all = directory["gateways"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|g| g["gateway"] == gateway).unwrap_or_default()
}

/// Whether no replica is out of place and none moves, as gateway `i` has it.
pub fn is_settled(plan: &Plan, i: usize) -> bool {
    let directory = plan.json(i, "/v1/directory");
    directory["misplaced_count"] == 0 && directory["moves"].as_array().is_some_and(Vec::is_empty)
}

/// Gives gateway `i` an order until it is carried out.
pub fn order(plan: &Plan, i: usize, method: &str, path: &str) {
    until(&format!("{method} {path} is done"), || {
        let (status, answer) = plan.order(i, method, path);
        assert!(status != 409, "{answer}");
        status == 200
    });
}

/// An invitation's token, written where gateway `i`, which is to join with it, looks for it.
pub fn invite(plan: &Plan, at: usize, i: usize, admits: &Value) {
    let mut token = Value::Null;
    until("an invitation is open", || {
        let (status, mut answer) = plan.post(at, "/v1/invitations", admits);
        assert!(status != 409, "{answer}");
        token = answer["token"].take();
        status == 200
    });
    let token = token.as_str().unwrap();
    assert_eq!(token.len(), 64);
    private(&plan.token_file(i), token);
}

/// Writes a file that only its owner may read.
fn private(path: &Path, text: &str) {
    let mut options = OpenOptions::new();
    options.create(true).truncate(true).write(true).mode(0o600);
    options.open(path).unwrap().write_all(text.as_bytes()).unwrap();
}
