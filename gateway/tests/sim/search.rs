//! Runs seeds, and shrinks a failure to the faults that it needs.

use super::plan::{Plan, Weather};
use super::world::{Tally, World};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::time::{Duration, Instant};

/// How long shrinking may take, in seconds.
const MAX_SHRINK_S: u64 = 60;
/// The sizes of sites whose members stay.
const SIZES: [u16; 4] = [1, 3, 5, 9];

pub enum Budget {
    Unbounded,
    For(Duration),
}

impl Budget {
    pub fn from_environment() -> Self {
        let text = std::env::var("SELVEDGE_SIM_FOR").unwrap_or_else(|_| "60s".to_string());
        let (number, unit) = text.split_at(text.len().saturating_sub(1));
        let number: u64 = number.parse().expect("SELVEDGE_SIM_FOR is a number and s, m or h");
        Self::For(Duration::from_secs(match unit {
            "s" => number,
            "m" => number * 60,
            "h" => number * 3_600,
            _ => panic!("SELVEDGE_SIM_FOR is a number and s, m or h"),
        }))
    }
}

pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// A failed run, with the fewest faults with which it still fails.
#[derive(Debug)]
pub struct Failure {
    pub plan: Plan,
    pub why: String,
}

pub struct Found(Option<Failure>);

impl Found {
    pub fn expect_none(self) {
        if let Some(Failure { plan, why }) = self.0 {
            panic!(
                "{why}\n\nwith {plan}\nreplay: SELVEDGE_SEED={} {} cargo test -p selvedge-gateway --test sim -- \
                 --nocapture replay",
                plan.seed,
                match (plan.growth, plan.apart) {
                    (true, _) if plan.witness => "SELVEDGE_WITNESS=1".to_string(),
                    (true, _) => "SELVEDGE_GROWTH=1".to_string(),
                    (false, true) => format!("SELVEDGE_APART=1 SELVEDGE_GATEWAYS={}", plan.gateways),
                    (false, false) => format!("SELVEDGE_GATEWAYS={}", plan.gateways),
                }
            );
        }
    }
}

thread_local! {
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
    static QUIET: RefCell<bool> = const { RefCell::new(false) };
}

/// Runs a plan. Returns what went wrong, if something did.
pub fn attempt(plan: &Plan, tracing: bool) -> Result<Tally, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.with_borrow(|quiet| *quiet) {
                CAUGHT.set(Some(info.to_string()));
            } else {
                usual(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(plan, tracing);
        world.run();
        world.tally
    }));
    QUIET.set(false);
    result.map_err(|_| CAUGHT.take().unwrap_or_else(|| "a panic".to_string()))
}

/// Leaves faults out as long as the run still fails.
fn shrink(mut plan: Plan, mut why: String) -> Failure {
    let begun = Instant::now();
    let try_with = |smaller: &Plan, why: &mut String| {
        if begun.elapsed().as_secs() >= MAX_SHRINK_S {
            return false;
        }
        match attempt(smaller, false) {
            Err(found) => {
                *why = found;
                true
            }
            Ok(_) => false,
        }
    };
    let calm = Plan { weather: Weather { disk_ms: 3, ..Weather::default() }, ..plan.clone() };
    if try_with(&calm, &mut why) {
        plan = calm;
    }
    let mut part = plan.faults.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        while at < plan.faults.len() {
            let mut smaller = plan.clone();
            smaller.faults.drain(at..(at + part).min(plan.faults.len()));
            if try_with(&smaller, &mut why) {
                plan = smaller;
            } else {
                at += part;
            }
        }
        part /= 2;
    }
    Failure { plan, why }
}

/// Which sites a search runs.
#[derive(Debug)]
pub enum Sites {
    /// The size goes by the seed.
    OfSizes(Vec<u16>),
    /// Their members change.
    Growing,
    /// Two full gateways and a witness.
    Witness,
    /// For each seed one of each kind.
    All,
}

impl Sites {
    pub fn from_environment() -> Self {
        if number("SELVEDGE_WITNESS").is_some() {
            return Self::Witness;
        }
        match (number("SELVEDGE_GATEWAYS"), number("SELVEDGE_GROWTH")) {
            (Some(n), _) => Self::OfSizes(vec![n as u16]),
            (None, Some(_)) => Self::Growing,
            (None, None) => Self::All,
        }
    }

    fn plans(&self, seed: u64) -> Vec<Plan> {
        match self {
            Self::OfSizes(sizes) => vec![Plan::new(seed, sizes[(seed % sizes.len() as u64) as usize])],
            Self::Growing => vec![Plan::growth(seed)],
            Self::Witness => vec![Plan::witness(seed)],
            Self::All => [Self::OfSizes(SIZES.to_vec()), Self::Growing, Self::Witness]
                .iter()
                .flat_map(|s| s.plans(seed))
                .collect(),
        }
    }
}

/// Runs seeds of these sites until one fails or the budget is spent.
pub fn search(sites: &Sites, seeds: std::ops::Range<u64>, budget: Budget) -> Found {
    let begun = Instant::now();
    let (mut runs, mut sum) = (0, Tally::default());
    for plan in seeds.flat_map(|seed| sites.plans(seed)) {
        if matches!(budget, Budget::For(time) if begun.elapsed() >= time) {
            break;
        }
        runs += 1;
        match attempt(&plan, false) {
            Ok(tally) => sum.add(&tally),
            Err(why) => {
                println!("seed {} of {} fails, shrinking", plan.seed, plan.site());
                return Found(Some(shrink(plan, why)));
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{sites:?}: {runs} runs, {:.1} a second; {sum:?}", runs as f64 / seconds);
    Found(None)
}

/// Runs these seeds under load.
pub fn heavy(gateways: u16, seeds: std::ops::Range<u64>) -> Found {
    for seed in seeds {
        let plan = Plan::new(seed, gateways).heavy();
        match attempt(&plan, false) {
            Ok(tally) => println!("seed {seed} under load: {tally:?}"),
            Err(why) => return Found(Some(shrink(plan, why))),
        }
    }
    Found(None)
}

/// Runs these seeds with a link that stays cut.
pub fn apart(gateways: u16, seeds: std::ops::Range<u64>) -> Found {
    for seed in seeds {
        let plan = Plan::apart(seed, gateways);
        if let Err(why) = attempt(&plan, false) {
            return Found(Some(Failure { plan, why }));
        }
    }
    Found(None)
}

/// Runs these seeds and prints every one that fails, with the first line of its failure.
pub fn survey(sites: &Sites, seeds: std::ops::Range<u64>) {
    let (begun, mut sum, mut failed, mut runs) = (Instant::now(), Tally::default(), 0, 0);
    for plan in seeds.flat_map(|seed| sites.plans(seed)) {
        runs += 1;
        match attempt(&plan, false) {
            Ok(tally) => sum.add(&tally),
            Err(why) => {
                failed += 1;
                let why: String = why.chars().take(200).collect();
                println!("seed {} of {}: {}", plan.seed, plan.site(), why.replace('\n', " "));
            }
        }
    }
    let rate = f64::from(runs) / begun.elapsed().as_secs_f64();
    println!("{sites:?}: {failed} of {runs} runs failed, {rate:.1} a second; {sum:?}");
}

/// Runs one seed and prints its trace.
pub fn replay(seed: u64, gateways: u16) {
    let plan = match (number("SELVEDGE_GROWTH"), number("SELVEDGE_WITNESS")) {
        (_, Some(_)) => Plan::witness(seed),
        (Some(_), _) => Plan::growth(seed),
        _ => Plan::new(seed, gateways),
    };
    let plan = if number("SELVEDGE_HEAVY").is_some() { plan.heavy() } else { plan };
    let plan = if number("SELVEDGE_APART").is_some() { Plan::apart(seed, gateways) } else { plan };
    println!("{plan}");
    match attempt(&plan, true) {
        Ok(tally) => println!("all holds: {tally:?}"),
        Err(why) => panic!("{why}"),
    }
}
