//! `selvedge site recover`: asks every survivor what it has, says what may be lost, and hands out the plan.

use crate::client::{AskError, Client, Order, draw_plan};
use crate::table::Table;
use selvedge_types::recovery::{
    AssessedGroup, Assessment, GoesOnFrom, RecoveryPlan, Survivor, assess, unfinished,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The directory group's number.
const DIRECTORY: u16 = u16::MAX;

/// A survivor that answered, and the client that reached it.
type SurvivorsByGateway = BTreeMap<u16, (Client, Survivor)>;

/// Assesses the site, and carries the recovery out if `yes` says so. Returns the answer, and what to print.
pub fn recover(
    first: &Client,
    token: Option<&Path>,
    survivors: &[String],
    yes: bool,
) -> Result<(Value, String), AskError> {
    let mut found = SurvivorsByGateway::new();
    let mut asked = BTreeSet::new();
    let mut to_ask = survivors.to_vec();
    // The default address may be nobody's, if others are named.
    ask(first.again(), &mut found).or_else(|e| if survivors.is_empty() { Err(e) } else { Ok(()) })?;
    loop {
        let known = found.values().flat_map(|(_, s)| s.gateways.iter());
        let known = known.filter(|g| !found.contains_key(&g.gateway) && !g.http.is_empty());
        let news: Vec<String> = to_ask.drain(..).chain(known.map(|g| g.http.clone())).collect();
        let news: Vec<String> = news.into_iter().filter(|at| asked.insert(at.clone())).collect();
        if news.is_empty() {
            break;
        }
        for at in news {
            let named = survivors.contains(&at);
            match Client::new(&at, token).and_then(|client| ask(client, &mut found)) {
                Err(e) if named => return Err(e),
                // What does not answer is what this command is for.
                Err(_) | Ok(()) => {}
            }
        }
    }
    let all: Vec<Survivor> = found.values().map(|(_, survivor)| survivor.clone()).collect();
    if let Some((plan, lacking)) = unfinished(&all) {
        return finish(&found, &plan, &lacking, yes);
    }
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis() as u64);
    let assessment = assess(&all, now_ms, draw_plan()?).map_err(|why| AskError::Judged(why.to_string()))?;
    let text = words(&assessment);
    let answer = json!({ "assessment": assessment, "carried_out": yes });
    if !yes {
        let told = "\nNothing was changed. Repeat the command with --yes to carry it out.\n";
        return Ok((answer, text + told));
    }
    eprint!("{text}");
    let told = hand_out(&found, &assessment.plan, &assessment.plan.survivors)?;
    Ok((answer, told))
}

/// Asks a gateway, and notes its answer.
fn ask(client: Client, found: &mut SurvivorsByGateway) -> Result<(), AskError> {
    let answer = client.get("/v1/recovery", "replicas")?;
    let survivor: Survivor = serde_json::from_value(answer)
        .map_err(|e| AskError::Judged(format!("a gateway of another release answered: {e}")))?;
    found.insert(survivor.gateway, (client, survivor));
    Ok(())
}

fn finish(
    found: &SurvivorsByGateway,
    plan: &RecoveryPlan,
    lacking: &[u16],
    yes: bool,
) -> Result<(Value, String), AskError> {
    let who = list(lacking);
    let answer = json!({ "unfinished": plan, "lacking": lacking, "carried_out": yes });
    if !yes {
        let told = format!(
            "A recovery was begun and not finished: {who} {} its plan. Repeat the command with --yes to hand it over.\n",
            if lacking.len() == 1 { "lacks" } else { "lack" },
        );
        return Ok((answer, told));
    }
    let told = hand_out(found, plan, lacking)?;
    Ok((answer, told))
}

/// Hands the plan to these survivors.
fn hand_out(found: &SurvivorsByGateway, plan: &RecoveryPlan, to: &[u16]) -> Result<String, AskError> {
    let body = serde_json::to_value(plan).map_err(|e| AskError::Judged(e.to_string()))?;
    for gateway in to {
        let Some((client, _)) = found.get(gateway) else { continue };
        client.order(&Order::post("/v1/recovery", Some(body.clone())))?;
        eprintln!("gateway {gateway} has the plan, and stops to carry it out when it is started again");
    }
    Ok(format!(
        "{} the plan of generation {}, and their processes end now. If no service manager starts them again, do so. Then look with \
         `selvedge site status`, and let new gateways join with `selvedge gateway invite`.\n",
        if to.len() == 1 { "The survivor has" } else { "All survivors have" },
        plan.name.generation,
    ))
}

fn list(gateways: &[u16]) -> String {
    let numbers: Vec<String> = gateways.iter().map(u16::to_string).collect();
    format!("gateway{} {}", if gateways.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

fn name(group: u16) -> String {
    if group == DIRECTORY { "directory".to_string() } else { format!("s{group}") }
}

/// What becomes of the site, in words and as a table.
fn words(assessment: &Assessment) -> String {
    let Assessment { plan, groups } = assessment;
    let mut said = format!(
        "site {}: {} survive{}; {} given up FOR GOOD{}\n\n",
        plan.site,
        list(&plan.survivors),
        if plan.survivors.len() == 1 { "s" } else { "" },
        match plan.lost.is_empty() {
            true => "no gateway is".to_string(),
            false => format!("{} {}", list(&plan.lost), if plan.lost.len() == 1 { "is" } else { "are" }),
        },
        if plan.lost.is_empty() { "" } else { ", and can never return to this site" },
    );
    let mut table = Table::new(&[
        "GROUP",
        "REPLICAS ON",
        "SURVIVE",
        "GOES ON",
        "FROM SLOT",
        "NOT KNOWN CHOSEN",
        "UNCONFIRMED",
    ]);
    let numbers = |list: &[u16]| list.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
    for g in groups {
        let how = match &g.goes_on {
            None => "as before".to_string(),
            Some(p) => match p.from {
                GoesOnFrom::Log => format!("on gateway {}", p.source),
                GoesOnFrom::Snapshot => format!("on gateway {}, from its snapshot", p.source),
                GoesOnFrom::Nothing => format!("EMPTY on gateway {}", p.source),
            },
        };
        table.row(vec![
            name(g.group),
            numbers(&g.members),
            numbers(&g.sound),
            how,
            g.kept.to_string(),
            g.kept.saturating_sub(g.commit).to_string(),
            g.unconfirmed_batches.to_string(),
        ]);
    }
    said += &table.text();
    said += "\nWhat may be lost:\n";
    for line in losses(groups) {
        said += &format!("- {line}\n");
    }
    said
}

/// What may be lost, a sentence each.
fn losses(groups: &[AssessedGroup]) -> Vec<String> {
    let of = |from: GoesOnFrom| -> Vec<String> {
        let is = |g: &&AssessedGroup| g.goes_on.as_ref().is_some_and(|p| p.from == from);
        groups.iter().filter(is).map(|g| name(g.group)).collect()
    };
    let kept = groups.iter().filter(|g| g.goes_on.is_none()).count();
    let (log, snapshot, nothing) = (of(GoesOnFrom::Log), of(GoesOnFrom::Snapshot), of(GoesOnFrom::Nothing));
    let mut said = Vec::new();
    if kept > 0 {
        said.push(format!("{kept} groups keep a majority, and lose nothing."));
    }
    if !log.is_empty() {
        said.push(format!(
            "{} groups go on from a survivor's log. Lost is what was acknowledged after the last slot that it holds: readings, sessions \
             and subscriptions, quarantined publishes, orders to the directory. A survivor that ran until the end was usually not more than \
             a moment behind; one that was down before the others went lacks everything since.",
            log.len()
        ));
        said.push(
            "Contents of batches that no survivor has on its disk are recorded at the node as holes, and so is what the node may have \
             counted already from the lost gateways: nothing is counted twice."
                .to_string(),
        );
    }
    if !snapshot.is_empty() {
        said.push(format!(
            "{} {} only damaged replicas left, and go on from a snapshot: everything acknowledged since that is lost.",
            snapshot.join(", "),
            if snapshot.len() == 1 { "has" } else { "have" },
        ));
    }
    if !nothing.is_empty() {
        said.push(format!(
            "{} {}, EMPTY: all sessions, sequence numbers and readings there that the cloud has not \
             confirmed are lost, and a device that repeats old readings has them counted again.",
            nothing.join(", "),
            match nothing.len() {
                1 => "has no replica left, and BEGINS ANEW",
                _ => "have no replica left, and BEGIN ANEW",
            },
        ));
    }
    said
}
