//! One pulse for all periodic work of a gateway: an idle process wakes once for everything that is due, not once for
//! each.

use actix::{Actor, AsyncContext, Context};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::Instant;

/// The origin of this process's monotonic times.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since that origin.
pub fn now_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The instant at which [`now_ms`] reaches `ms`.
pub fn at(ms: u64) -> Instant {
    *START + Duration::from_millis(ms)
}

/// Calls `what` at each multiple of a period. Periods that are multiples of each other share their wake-ups.
pub fn every<A: Actor<Context = Context<A>>>(ctx: &mut Context<A>, period_ms: u64, what: fn(&mut A)) {
    let next = at((now_ms() / period_ms + 1) * period_ms);
    ctx.run_later(next.saturating_duration_since(Instant::now()), move |actor, ctx| {
        what(actor);
        every(ctx, period_ms, what);
    });
}
