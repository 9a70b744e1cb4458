//! One beat for what a gateway does now and then: an idle process wakes once for all that is due, not once for each.

use actix::{Actor, AsyncContext, Context};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::Instant;

/// When this process began to count.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds since this process began to count.
pub fn now_ms() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// When [`now_ms`] comes to `ms`.
pub fn at(ms: u64) -> Instant {
    *START + Duration::from_millis(ms)
}

/// Has something done at each multiple of a period, which should itself divide a longer one or be divided by a shorter.
pub fn every<A: Actor<Context = Context<A>>>(ctx: &mut Context<A>, period_ms: u64, what: fn(&mut A)) {
    let next = at((now_ms() / period_ms + 1) * period_ms);
    ctx.run_later(next.saturating_duration_since(Instant::now()), move |actor, ctx| {
        what(actor);
        every(ctx, period_ms, what);
    });
}
