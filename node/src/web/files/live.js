// Hears of windows as the node applies them; where that can't be, asks now and then.

import { events } from "./api.js";

const POLL_MS = 5_000;
const OTHERS_MS = 15_000;
const AGAIN_MS = 3_000;

/**
 * Calls `changed` with the start of the earliest window that may be new, or with nothing if that is not known; and `state` with
 * "live" or "polling". Ends with the page.
 */
export async function follow(parameters, changed, state) {
  for (;;) {
    const stop = new AbortController();
    const hidden = () => document.hidden && stop.abort();
    document.addEventListener("visibilitychange", hidden);
    // Other nodes of the same database are not heard here.
    const others = setInterval(() => changed(null), OTHERS_MS);
    try {
      const feed = events("/v1/live", parameters, stop.signal, () => {
        state("live");
        changed(null);
      });
      for await (const event of feed) {
        if (event.event === "window") changed(JSON.parse(event.data).start_ms);
        else if (event.event === "lagged") changed(null);
      }
    } catch (error) {
      // A token without the scope `live`, or no such path: asking now and then does as well.
      if (error.status >= 400 && error.status < 500) break;
    } finally {
      document.removeEventListener("visibilitychange", hidden);
      clearInterval(others);
    }
    state("polling");
    await wait(AGAIN_MS);
    await seen();
    changed(null);
  }
  state("polling");
  for (;;) {
    await wait(POLL_MS);
    await seen();
    changed(null);
  }
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** A page that nobody sees holds no connection. */
function seen() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}
