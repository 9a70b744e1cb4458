// Completeness of the last hour: which streams have something in each minute, and a strip that shows it.
//
// What is expected of a minute is what the best minute of the hour had, or the best hour of the day before: what falls silent is
// missed for a day, what is new is not missed before it began. The newest minutes may still be on their way.

import { pages } from "./api.js";
import { floor } from "./chart.js";
import { h } from "./dom.js";
import { localClock, parameter, percent } from "./format.js";

export const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** For so long what is missing may just not have come yet. */
export const SETTLE_MS = 120_000;

/** Windows wider than a minute fit no minute; then cells are wider. */
const STEPS_MS = [60_000, 300_000, 900_000, HOUR_MS];

/** How often the whole hour is asked for again, and how much of its end in between. */
const WHOLE_EVERY_MS = 600_000;
const TAIL_MS = 600_000;

/** How many pages of an answer are read at most. */
const MOST_PAGES = 12;

/** The cells of an hour: of each row its start and how many streams it holds. `before` is how many there were on the day before. */
export function cells(rows, fromMs, stepMs, nowMs, before) {
  const by = new Map(rows.map((row) => [row.start_ms, row]));
  const best = rows.reduce((most, row) => Math.max(most, row.streams ?? 1), before);
  const first = rows.reduce((first, row) => Math.min(first, row.start_ms), Infinity);
  return Array.from({ length: Math.round(HOUR_MS / stepMs) }, (_, i) => {
    const start = fromMs + i * stepMs;
    const row = by.get(start);
    const there = row ? row.streams ?? 1 : 0;
    const share = best > 0 ? there / best : 0;
    const late = row?.late ?? 0;
    let kind = "some";
    if (before === 0 && start < first) return { start, there, expected: 0, share: 0, late: 0, kind: "before" };
    if (share >= 1) kind = row.complete === false ? "open" : "full";
    else if (start + stepMs > nowMs - SETTLE_MS) kind = "coming";
    else if (there === 0) kind = "none";
    return { start, there, expected: best, share, late, kind };
  });
}

/** The cells of several streams as those of one thing. */
export function together(streams) {
  return streams[0].map((first, i) => {
    const its = streams.map((cells) => cells[i]);
    const sum = (of) => its.reduce((sum, cell) => sum + of(cell), 0);
    const [there, expected, late] = [sum((cell) => cell.there), sum((cell) => cell.expected), sum((cell) => cell.late)];
    const has = (kind) => its.some((cell) => cell.kind === kind);
    let kind = "full";
    if (expected === 0) kind = "before";
    else if (there < expected) kind = has("coming") ? "coming" : there === 0 ? "none" : "some";
    else if (has("open")) kind = "open";
    return { start: first.start, there, expected, share: expected > 0 ? there / expected : 0, late, kind };
  });
}

/** What share of what was expected is there, of the minutes that are over; nothing if nothing was expected. */
export function completeness(all) {
  const over = all.filter((cell) => cell.kind !== "coming" && cell.expected > 0);
  const sum = (of) => over.reduce((sum, cell) => sum + of(cell), 0);
  return over.length === 0 ? null : sum((cell) => cell.there) / sum((cell) => cell.expected);
}

const KINDS = { full: "all there", open: "all there, late readings may follow", some: "some are missing", none: "nothing", coming: "not all here yet", before: "before it began" };

/** A strip of cells: how full a minute is shows in its height and its colour. */
export function strip(all, stepMs, what) {
  const share = completeness(all);
  const bad = all.filter((cell) => cell.kind === "some" || cell.kind === "none").length;
  const label = share === null
    ? `${what}: nothing in the last hour`
    : `${what}: ${percent(share)} of the last hour is there${bad > 0 ? `, ${bad} of ${all.length} cells are not full` : ""}`;
  const bars = all.map((cell) => {
    const of = cell.expected > 1 ? `${cell.there} of ${cell.expected} streams, ` : "";
    const late = cell.late > 0 ? `, ${cell.late} late readings` : "";
    const bar = h("i", { class: cell.kind, title: `${localClock(cell.start)}: ${of}${KINDS[cell.kind]}${late}` });
    bar.style.setProperty("--share", String(cell.there === 0 ? 0 : Math.max(cell.share, 0.12)));
    return bar;
  });
  return h("div", { class: "strip", role: "img", "aria-label": label }, bars);
}

/** What the kinds look like. */
export function legend() {
  const item = (kind, text) => {
    const bar = h("i", { class: kind });
    bar.style.setProperty("--share", kind === "some" ? "0.5" : kind === "none" ? "0" : "1");
    return h("span", null, h("span", { class: "strip one", "aria-hidden": "true" }, bar), text);
  };
  return h("p", { class: "legend" }, item("full", "all streams"), item("some", "some missing"), item("none", "nothing"), item("coming", "still to come"));
}

/**
 * The last hour of streams, grouped as asked; rows for each minute, or for longer spans if minutes don't fit. Of what was known a
 * little while ago only the end is asked again: an hour of a large fleet is a lot.
 */
export async function lastHour(parameters, known = null, signal = undefined) {
  const now = Date.now();
  if (known?.whole && known.step === STEPS_MS[0] && now - known.asked < WHOLE_EVERY_MS) {
    const to = floor(now, known.step) + known.step;
    const since = to - TAIL_MS;
    const ask = { ...parameters, from: new Date(since).toISOString(), to: new Date(to).toISOString(), every: parameter(known.step), limit: 10_000 };
    const { rows, whole } = await pages("/v1/aggregates", ask, "aggregates", MOST_PAGES, signal);
    const from = to - HOUR_MS;
    return { ...known, rows: [...known.rows.filter((row) => row.start_ms >= from && row.start_ms < since), ...rows], from, whole };
  }
  for (const step of STEPS_MS) {
    const to = floor(now, step) + step;
    const from = to - HOUR_MS;
    const ask = { ...parameters, from: new Date(from).toISOString(), to: new Date(to).toISOString(), every: parameter(step), limit: 10_000 };
    try {
      const { rows, whole } = await pages("/v1/aggregates", ask, "aggregates", MOST_PAGES, signal);
      return { rows, from, step, whole, asked: now, before: await dayBefore(parameters, from, signal) };
    } catch (error) {
      if (error.parameter !== "every" || step === HOUR_MS) throw error;
    }
  }
  return null;
}

/** How many streams the best hour of the day before had, by the names of what was grouped. */
async function dayBefore(parameters, from, signal) {
  const to = floor(from, HOUR_MS);
  const ask = { ...parameters, fn: "count", from: new Date(to - DAY_MS).toISOString(), to: new Date(to).toISOString(), every: "1h", limit: 10_000 };
  const best = new Map();
  const { rows } = await pages("/v1/aggregates", ask, "aggregates", MOST_PAGES, signal);
  for (const row of rows) best.set(group(row), Math.max(best.get(group(row)) ?? 0, row.streams ?? 1));
  return best;
}

/** The name of what a row is of. */
export const group = (row) => JSON.stringify([row.site, row.device, row.stream]);
