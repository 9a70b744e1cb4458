//! Changes of the site's gateways: a box whose disk is lost is replaced, a new gateway joins, or one leaves. [`Change`]
//! says what to ask of the site next and judges the answers; it does no IO. [`crate::site`] asks, and starts and ends
//! processes.

use serde_json::{Value, json};

/// What happens to the gateway of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// The gateway of this number is dead for good; a new one takes its place.
    Replace(u64),
    Join,
    /// A new gateway joins that only votes.
    JoinAsWitness,
    /// The gateway of this number leaves.
    Leave(u64),
}

/// A request to a gateway that stays.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub body: Option<Value>,
}

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing yet: the next look asks again.
    Wait,
    /// Start the new gateway, with this token and these addresses to ask.
    Start { token: String, seeds: Value },
    /// End the process of the gateway that left.
    End,
    /// The change is complete; a new gateway has this number.
    Done(Option<u64>),
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Invited,
    Draining,
    Empty,
    Removed,
    Settled,
}

/// A change under way.
#[derive(Debug, Clone)]
pub struct Change {
    kind: ChangeKind,
    stage: Stage,
    /// Where the new gateway listens for the others.
    address: String,
}

impl Change {
    /// A change that begins. A new gateway will listen for the others at `address`.
    pub fn new(kind: ChangeKind, address: String) -> Self {
        let stage = if matches!(kind, ChangeKind::Leave(_)) { Stage::Draining } else { Stage::Invited };
        Self { kind, stage, address }
    }

    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// What to ask next.
    pub fn request(&self) -> Request {
        let get = || Request { method: "GET", path: "/v1/directory".into(), body: None };
        match (self.stage, self.kind) {
            (Stage::Invited, kind) => {
                let replaces = if let ChangeKind::Replace(old) = kind { Some(old) } else { None };
                let body =
                    Some(json!({ "replaces": replaces, "witness": kind == ChangeKind::JoinAsWitness }));
                Request { method: "POST", path: "/v1/invitations".into(), body }
            }
            (Stage::Draining, ChangeKind::Leave(id)) => {
                Request { method: "POST", path: format!("/v1/gateways/{id}/drain"), body: Some(json!({})) }
            }
            (Stage::Removed, ChangeKind::Leave(id)) => {
                Request { method: "DELETE", path: format!("/v1/gateways/{id}"), body: None }
            }
            _ => get(),
        }
    }

    /// Judges the answer to [`Self::request`]; none may have come.
    pub fn answered(&mut self, answer: Option<(u16, Value)>) -> Next {
        let Some((200, answer)) = answer else { return Next::Wait };
        let gateways = answer["gateways"].as_array();
        let find = |wanted: &dyn Fn(&Value) -> bool| gateways.and_then(|all| all.iter().find(|g| wanted(g)));
        match self.stage {
            Stage::Invited => {
                let Some(token) = answer["token"].as_str() else { return Next::Wait };
                self.stage = Stage::Settled;
                Next::Start { token: token.to_string(), seeds: answer["seeds"].clone() }
            }
            Stage::Draining => {
                self.stage = Stage::Empty;
                Next::Wait
            }
            Stage::Empty => {
                let ChangeKind::Leave(id) = self.kind else { return Next::Wait };
                let moves = answer["moves"].as_array();
                let comes = moves.is_some_and(|all| all.iter().any(|m| m["comes"] == id));
                let drained =
                    |g: &Value| g["gateway"] == id && g["state"] == "draining" && g["replicas"] == 0;
                if find(&drained).is_some() && !comes {
                    self.stage = Stage::Removed;
                }
                Next::Wait
            }
            Stage::Removed => {
                self.stage = Stage::Settled;
                Next::End
            }
            Stage::Settled => {
                let at_rest =
                    answer["misplaced_count"] == 0 && answer["moves"].as_array().is_some_and(Vec::is_empty);
                let gone = match self.kind {
                    ChangeKind::Replace(id) | ChangeKind::Leave(id) => {
                        find(&|g| g["gateway"] == id).is_none()
                    }
                    ChangeKind::Join | ChangeKind::JoinAsWitness => true,
                };
                let new = find(&|g| g["addresses"]["peer"] == self.address && g["state"] == "active");
                let new = new.and_then(|g| g["gateway"].as_u64());
                match at_rest && gone && (new.is_some() || matches!(self.kind, ChangeKind::Leave(_))) {
                    true => Next::Done(new),
                    false => Next::Wait,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(gateways: &[(u64, &str, u64)], misplaced: u64) -> Option<(u16, Value)> {
        let one = |(id, state, replicas): &(u64, &str, u64)| {
            let addresses = json!({ "peer": format!("127.0.0.1:{}", 7_000 + id) });
            json!({ "gateway": id, "state": state, "replicas": replicas, "addresses": addresses })
        };
        let gateways: Vec<_> = gateways.iter().map(one).collect();
        Some((200, json!({ "gateways": gateways, "misplaced_count": misplaced, "moves": [] })))
    }

    #[test]
    fn a_replacement_is_complete_when_the_old_one_is_gone_and_nothing_moves() {
        let mut change = Change::new(ChangeKind::Replace(2), "127.0.0.1:7004".into());
        assert_eq!(change.request().body, Some(json!({ "replaces": 2, "witness": false })));
        assert_eq!(change.answered(None), Next::Wait);
        assert_eq!(change.answered(Some((503, json!({})))), Next::Wait);
        let invited = json!({ "token": "5f", "seeds": ["127.0.0.1:7001"] });
        let start = Next::Start { token: "5f".into(), seeds: json!(["127.0.0.1:7001"]) };
        assert_eq!(change.answered(Some((200, invited))), start);
        assert_eq!(change.request().path, "/v1/directory");
        let (one, old, new) = ((1, "active", 8), (2, "draining", 8), (4, "active", 0));
        for early in [
            directory(&[one, (2, "active", 8)], 0),
            directory(&[one, (2, "active", 8), (4, "joining", 0)], 0),
            directory(&[one, old, new], 8),
            directory(&[one, old, (4, "active", 8)], 0),
        ] {
            assert_eq!(change.answered(early), Next::Wait);
        }
        assert_eq!(change.answered(directory(&[one, (4, "active", 8)], 0)), Next::Done(Some(4)));
    }

    #[test]
    fn a_witness_is_invited_as_one() {
        let change = Change::new(ChangeKind::JoinAsWitness, "127.0.0.1:7003".into());
        assert_eq!(change.request().body, Some(json!({ "replaces": null, "witness": true })));
    }

    #[test]
    fn a_gateway_that_leaves_is_removed_once_it_is_empty() {
        let mut change = Change::new(ChangeKind::Leave(2), String::new());
        assert_eq!(change.request().path, "/v1/gateways/2/drain");
        assert_eq!(change.answered(Some((200, json!({ "changed": true })))), Next::Wait);
        let one = (1, "active", 8);
        for early in [directory(&[one, (2, "draining", 1)], 1), directory(&[one, (2, "active", 0)], 0)] {
            assert_eq!((change.answered(early), change.request().method), (Next::Wait, "GET"));
        }
        assert_eq!(change.answered(directory(&[one, (2, "draining", 0)], 0)), Next::Wait);
        assert_eq!(change.request().method, "DELETE");
        assert_eq!(change.answered(Some((409, json!({})))), Next::Wait);
        assert_eq!(change.answered(Some((200, json!({ "changed": true })))), Next::End);
        assert_eq!(change.answered(directory(&[one, (2, "draining", 0)], 0)), Next::Wait, "an old copy");
        assert_eq!(change.answered(directory(&[one], 0)), Next::Done(None));
    }
}
