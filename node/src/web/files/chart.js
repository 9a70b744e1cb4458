// The reckoning behind a chart: scales, ticks, paths, gaps. No document, no network, no clock.

const NICE_MS = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 900_000,
  1_800_000, 3_600_000, 7_200_000, 10_800_000, 21_600_000, 43_200_000, 86_400_000, 172_800_000, 604_800_000,
];
const DAY_MS = 86_400_000;

/** The span to ask for, so that a stretch of time has at most so many: a multiple of the stored width, nice if one is. */
export function chooseEvery(spanMs, widthMs, most) {
  const least = Math.max(widthMs, spanMs / most);
  const nice = NICE_MS.find((ms) => ms >= least && ms % widthMs === 0);
  if (nice) return nice;
  const unit = DAY_MS % widthMs === 0 ? DAY_MS : widthMs;
  return Math.ceil(least / unit) * unit;
}

export const floor = (ms, step) => Math.floor(ms / step) * step;

/** From numbers to places and back. */
export function scale([from, to], [a, b]) {
  const span = to - from || 1;
  const at = (n) => a + ((n - from) / span) * (b - a);
  at.back = (x) => from + ((x - a) / (b - a || 1)) * span;
  return at;
}

/** Round numbers that cover `from..to`, about so many. */
export function ticks(from, to, about) {
  const span = to - from;
  if (!(span > 0) || !Number.isFinite(span)) return [from];
  const raw = span / Math.max(about, 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const first = Math.ceil(from / step - 1e-9);
  const last = Math.floor(to / step + 1e-9);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** Round times in `from..to`, about so many, on the clock that is `offsetMs` ahead of UTC; with their step. */
export function timeTicks(from, to, about, offsetMs) {
  const raw = (to - from) / Math.max(about, 1);
  const steps = NICE_MS.filter((ms) => ms >= 1_000);
  const step = steps.find((ms) => ms >= raw) ?? Math.ceil(raw / DAY_MS) * DAY_MS;
  const all = [];
  for (let at = floor(from + offsetMs, step); at <= to + offsetMs; at += step) {
    if (at - offsetMs >= from) all.push(at - offsetMs);
  }
  return { step, all };
}

/** The least and the greatest value of rows, with a little room; something around zero if there is none. */
export function extent(rows) {
  let [low, high] = [Infinity, -Infinity];
  for (const row of rows) {
    if (row.min !== null) low = Math.min(low, row.min);
    if (row.max !== null) high = Math.max(high, row.max);
  }
  if (low > high) return [0, 1];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

/** Rows that follow each other without a gap. */
export function runs(rows, everyMs) {
  const all = [];
  let before = null;
  for (const row of rows) {
    if (row.mean === null) {
      before = null;
      continue;
    }
    if (before === null || row.start_ms - before > everyMs) all.push([]);
    all[all.length - 1].push(row);
    before = row.start_ms;
  }
  return all;
}

const pair = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;

/** The area between least and greatest. Each span is as wide as it is long, so that one alone shows too. */
export function bandPath(rows, everyMs, x, y) {
  const shape = (run) => {
    const there = run.flatMap((r) => [pair(x(r.start_ms), y(r.max)), pair(x(r.start_ms + everyMs), y(r.max))]);
    const back = run.toReversed().flatMap((r) => [pair(x(r.start_ms + everyMs), y(r.min)), pair(x(r.start_ms), y(r.min))]);
    return `M${there.join("L")}L${back.join("L")}Z`;
  };
  return runs(rows, everyMs).map(shape).join("");
}

/** The line of means, through the middle of each span. */
export function linePath(rows, everyMs, x, y) {
  const point = (r) => pair(x(r.start_ms + everyMs / 2), y(r.mean));
  // One alone is a dash.
  const shape = (run) => (run.length > 1
    ? `M${run.map(point).join("L")}`
    : `M${pair(x(run[0].start_ms), y(run[0].mean))}L${pair(x(run[0].start_ms + everyMs), y(run[0].mean))}`);
  return runs(rows, everyMs).map(shape).join("");
}

/** Where nothing is between spans of which something is known. */
export function gapsBetween(rows, everyMs) {
  const all = [];
  for (let i = 1; i < rows.length; i += 1) {
    const [from, to] = [rows[i - 1].start_ms + everyMs, rows[i].start_ms];
    if (to > from) all.push({ from_ms: from, to_ms: to });
  }
  return all;
}

/** The row that a time is in, or the nearest one. */
export function nearest(rows, everyMs, ms) {
  if (rows.length === 0) return -1;
  let [low, high] = [0, rows.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (rows[middle].start_ms <= ms) low = middle;
    else high = middle - 1;
  }
  const next = rows[low + 1];
  const off = ms - (rows[low].start_ms + everyMs);
  return next && off > 0 && next.start_ms - ms < off ? low + 1 : low;
}

/** Rows with a newer answer for all from `since` on; none before `from`. */
export function renew(rows, newer, since, from) {
  return [...rows.filter((row) => row.start_ms < since && row.start_ms >= from), ...newer.filter((row) => row.start_ms >= from)];
}
