//! Watches until a gateway is empty or all replicas are where they should be.
//!
//! [`Watch`] judges one answer of `/v1/directory` after the other and does no IO. Its estimate takes the moves to go on
//! as fast as they went since the watching began.

use crate::client::{AskError, Client};
use crate::moving::is_settled;
use crate::table::{duration, items};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the gateway is asked.
const LOOK_EVERY_MS: u64 = 1_000;
/// For how long answers may be missing before the command gives up.
const PATIENCE_MS: u64 = 60_000;
/// If nothing moves for this long although something should, the progress line says what to check.
const STALLED_MS: u64 = 30_000;

/// What is watched for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// This gateway holds no replica.
    Drained(u16),
    Balanced,
}

/// What one answer says.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// How far it is, in one line without and with the estimate.
    Going { far: String, estimate: String },
    /// It has ended, like this.
    Ended(String),
}

pub struct Watch {
    goal: Goal,
    /// When the watching began, and how much there was to move.
    began: Option<(u64, f64)>,
    /// The gateway was seen draining. Before that, the answer may be older than the order.
    drains: bool,
    /// Since when nothing moves.
    stalled_ms: Option<u64>,
}

impl Watch {
    pub fn new(goal: Goal) -> Self {
        Self { goal, began: None, drains: false, stalled_ms: None }
    }

    /// Judges an answer of `/v1/directory` that came at this time.
    pub fn look(&mut self, now_ms: u64, answer: &Value) -> Look {
        match self.goal {
            Goal::Drained(gateway) => {
                let same = |g: &&Value| g["gateway"] == gateway;
                let Some(record) = items(&answer["gateways"]).iter().find(same) else {
                    return Look::Ended(format!("gateway {gateway} was removed from the site"));
                };
                let is_draining = record["state"] == "draining";
                if self.drains && !is_draining {
                    return Look::Ended(format!("gateway {gateway} no longer drains: somebody resumed it"));
                }
                self.drains |= is_draining;
                let comes = items(&answer["moves"]).iter().any(|m| m["comes"] == gateway);
                if self.drains && record["replicas"] == 0 && !comes {
                    return Look::Ended(format!(
                        "gateway {gateway} is empty; `selvedge gateway resume {gateway}` takes it back, `selvedge gateway remove {gateway}` \
                         removes it for good"
                    ));
                }
                let under_way =
                    items(&answer["moves"]).iter().filter(|m| m["leaves"] == gateway).map(done).sum::<f64>();
                let left = record["replicas"].as_f64().unwrap_or(0.0) - under_way;
                let look = self.going(now_ms, answer, &format!("gateway {gateway} drains"), left);
                // Its leaders, its devices and its copies of data that only it has can't leave it then.
                match look {
                    Look::Going { far, .. } if record["up"] == false => Look::Going {
                        far: format!(
                            "{far}; it can't be reached: start it again, or, if it is lost, `selvedge gateway remove {gateway}` has the others \
                             rebuild its replicas"
                        ),
                        estimate: String::new(),
                    },
                    look => look,
                }
            }
            Goal::Balanced if is_settled(answer) && !items(&answer["gateways"]).iter().any(joins) => {
                Look::Ended("all replicas are where they should be".to_string())
            }
            Goal::Balanced => {
                let under_way = items(&answer["moves"]).iter().map(done).sum::<f64>();
                let left = items(&answer["misplaced"]).iter().map(missing).sum::<f64>() - under_way;
                self.going(now_ms, answer, "rebalancing", left)
            }
        }
    }

    fn going(&mut self, now_ms: u64, answer: &Value, what: &str, left: f64) -> Look {
        let left = left.max(0.0);
        // More than at the beginning: another gateway drains, say.
        let (began_ms, all) = *self.began.get_or_insert((now_ms, left));
        let (began_ms, all) = if left > all { (now_ms, left) } else { (began_ms, all) };
        self.began = Some((began_ms, all));
        let moving = items(&answer["moves"]).len();
        let (whole, all_whole) = (left.ceil(), all.ceil());
        let far =
            format!("{what}: {whole:.0} of {all_whole:.0} replicas have yet to move, {moving} moving now");
        if moving > 0 {
            self.stalled_ms = None;
        }
        let stalled = now_ms.saturating_sub(*self.stalled_ms.get_or_insert(now_ms)) >= STALLED_MS;
        let estimate = if answer["paused"] == true {
            "; moves are paused: `selvedge rebalance continue` ends the pause".to_string()
        } else if moving == 0 && stalled {
            "; nothing moves: check with `selvedge site status` that all gateways run and have room"
                .to_string()
        } else if all > left {
            let ms = now_ms.saturating_sub(began_ms) as f64 * left / (all - left);
            format!("; about {} to go", duration(&json!(ms as u64)))
        } else {
            String::new()
        };
        Look::Going { far, estimate }
    }
}

/// Whether a gateway was admitted and takes no replicas yet.
fn joins(gateway: &Value) -> bool {
    gateway["state"] == "joining"
}

/// How many replicas of a group have yet to move.
fn missing(group: &Value) -> f64 {
    let (voters, wanted) = (items(&group["voters"]), items(&group["wanted"]));
    let comes = wanted.iter().filter(|g| !voters.contains(g)).count();
    let leaves = voters.iter().filter(|g| !wanted.contains(g)).count();
    comes.max(leaves) as f64
}

/// How much of a move is done, from 0 to 1.
fn done(m: &Value) -> f64 {
    match (m["done_bytes"].as_f64(), m["total_bytes"].as_f64()) {
        (Some(done), Some(total)) if total > 0.0 => (done / total).clamp(0.0, 1.0),
        _ => 0.0,
    }
}

/// Watches at a gateway, with a progress line on standard error. Returns the last answer, and how it ended.
///
/// # Errors
/// When the first answer is missing, or later ones for a minute.
pub fn watch(client: &Client, goal: Goal) -> Result<(Value, String), AskError> {
    let (begin, mut watch, mut line) = (Instant::now(), Watch::new(goal), Line::new());
    let mut answered: Option<Instant> = None;
    loop {
        match client.get("/v1/directory", "gateways") {
            Ok(answer) => {
                answered = Some(Instant::now());
                let now_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                match watch.look(now_ms, &answer) {
                    Look::Ended(how) => {
                        line.end();
                        return Ok((answer, how));
                    }
                    Look::Going { far, estimate } => line.show(&far, &estimate),
                }
            }
            Err(why)
                if why.may_pass()
                    && answered.is_some_and(|at| at.elapsed() < Duration::from_millis(PATIENCE_MS)) =>
            {
                line.show("no answer; asking again", "");
            }
            Err(why) => {
                line.end();
                return Err(why);
            }
        }
        std::thread::sleep(Duration::from_millis(LOOK_EVERY_MS));
    }
}

/// The progress line: rewritten in place on a terminal, and printed anew when it changes elsewhere.
struct Line {
    is_terminal: bool,
    shown: String,
}

impl Line {
    fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), shown: String::new() }
    }

    fn show(&mut self, far: &str, estimate: &str) {
        // If nobody reads standard error, the work goes on all the same.
        let mut out = std::io::stderr().lock();
        let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
        if self.is_terminal {
            let _ = write!(out, "\r\x1b[K{}{}", clean(far), clean(estimate));
        } else if self.shown != far {
            let _ = writeln!(out, "{}{}", clean(far), clean(estimate));
        }
        let _ = out.flush();
        self.shown = far.to_string();
    }

    fn end(&self) {
        if self.is_terminal && !self.shown.is_empty() {
            let _ = writeln!(std::io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moving::tests::draining;

    fn going(look: Look) -> String {
        match look {
            Look::Going { far, estimate } => far + &estimate,
            Look::Ended(how) => panic!("ended: {how}"),
        }
    }

    #[test]
    fn a_drain_ends_when_the_gateway_holds_nothing() {
        let (mut watch, mut answer) = (Watch::new(Goal::Drained(3)), draining());
        let said = going(watch.look(0, &answer));
        assert_eq!(said, "gateway 3 drains: 2 of 2 replicas have yet to move, 1 moving now");
        answer["gateways"][1]["replicas"] = json!(1);
        answer["moves"] =
            json!([{"shard": null, "leaves": 3, "comes": 4, "done_bytes": 0, "total_bytes": null}]);
        let said = going(watch.look(10_000, &answer));
        let wanted = "gateway 3 drains: 1 of 2 replicas have yet to move, 1 moving now; about 20s to go";
        assert_eq!(said, wanted, "half a replica took 10 s");
        answer["gateways"][1]["replicas"] = json!(0);
        answer["moves"] =
            json!([{"shard": 2, "leaves": null, "comes": 3, "done_bytes": 0, "total_bytes": null}]);
        going(watch.look(11_000, &answer)); // a move that began before the drain still brings a replica
        answer["moves"] = json!([]);
        let Look::Ended(how) = watch.look(20_000, &answer) else { panic!("goes on") };
        assert!(how.starts_with("gateway 3 is empty; ") && how.contains("gateway remove 3"), "{how}");
    }

    #[test]
    fn a_gateway_that_dies_while_it_drains_is_named_with_what_to_do() {
        let (mut watch, mut answer) = (Watch::new(Goal::Drained(3)), draining());
        answer["gateways"][1]["up"] = json!(true);
        assert!(!going(watch.look(0, &answer)).contains("reached"));
        answer["gateways"][1]["up"] = json!(false);
        let said = going(watch.look(1_000, &answer));
        assert!(
            said.contains("it can't be reached: start it again") && said.contains("gateway remove 3"),
            "{said}"
        );
    }

    #[test]
    fn an_answer_from_before_the_order_is_not_taken_for_the_end() {
        let (mut watch, mut answer) = (Watch::new(Goal::Drained(3)), draining());
        answer["gateways"][1]["state"] = json!("active");
        answer["gateways"][1]["replicas"] = json!(0);
        going(watch.look(0, &answer));
        answer["gateways"][1]["state"] = json!("draining");
        answer["gateways"][1]["replicas"] = json!(1);
        going(watch.look(1_000, &answer));
        answer["gateways"][1]["state"] = json!("active");
        assert!(matches!(watch.look(2_000, &answer), Look::Ended(how) if how.contains("resumed")));
        answer["gateways"].as_array_mut().unwrap().pop();
        assert!(matches!(watch.look(3_000, &answer), Look::Ended(how) if how.contains("removed")));
    }

    #[test]
    fn a_pause_and_a_stall_say_what_to_do() {
        let (mut watch, mut answer) = (Watch::new(Goal::Balanced), draining());
        answer["moves"] = json!([]);
        let said = going(watch.look(0, &answer));
        assert_eq!(said, "rebalancing: 2 of 2 replicas have yet to move, 0 moving now");
        assert!(going(watch.look(STALLED_MS, &answer)).contains("selvedge site status"));
        answer["paused"] = true.into();
        assert!(going(watch.look(STALLED_MS, &answer)).contains("rebalance continue"));
        (answer["paused"], answer["misplaced"], answer["misplaced_count"]) =
            (json!(false), json!([]), json!(0));
        assert!(
            matches!(watch.look(STALLED_MS, &answer), Look::Ended(how) if how.contains("where they should be"))
        );
    }

    #[test]
    fn more_to_move_begins_the_estimate_anew() {
        let (mut watch, mut answer) = (Watch::new(Goal::Balanced), draining());
        going(watch.look(0, &answer));
        let third = json!({"shard": 9, "voters": [1, 2, 3], "wanted": [4, 5, 6]});
        answer["misplaced"].as_array_mut().unwrap().push(third);
        let said = going(watch.look(5_000, &answer));
        assert_eq!(said, "rebalancing: 5 of 5 replicas have yet to move, 1 moving now", "4.5, rounded");
    }

    #[test]
    fn a_gateway_that_joins_is_waited_for() {
        let mut watch = Watch::new(Goal::Balanced);
        let state =
            |state| json!({"gateways": [{"gateway": 4, "state": state}], "misplaced_count": 0, "moves": []});
        going(watch.look(0, &state("joining")));
        assert!(matches!(watch.look(1_000, &state("active")), Look::Ended(_)));
    }
}
