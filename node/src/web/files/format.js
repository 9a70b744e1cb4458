// Numbers, sizes and times as a person reads them.

const whole = new Intl.NumberFormat();
const real = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 6 });
const percents = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 });
const ago = new Intl.RelativeTimeFormat(undefined, { numeric: "always", style: "short" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });

export const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));
export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;
export const value = (n) => (n === null || n === undefined ? "–" : real.format(n));

/** A share, never rounded up to all. */
export function percent(share) {
  if (share === null || Number.isNaN(share)) return "–";
  return percents.format(share < 1 ? Math.min(share, 0.999) : 1);
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) {
    n /= 1024;
    at += 1;
  }
  return `${new Intl.NumberFormat(undefined, { maximumFractionDigits: n < 10 && at > 0 ? 1 : 0 }).format(n)} ${units[at]}`;
}

const UNITS = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "min"], [1_000, "s"], [1, "ms"]];

/** A duration in one or two units. */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  const at = UNITS.findIndex(([unit]) => ms >= unit);
  if (at < 0) return "0 s";
  const [unit, name] = UNITS[at];
  const [next, small] = UNITS[at + 1] ?? [1, ""];
  const rest = name === "ms" || (name === "s") ? 0 : Math.floor((ms % unit) / next);
  return `${Math.floor(ms / unit)} ${name}${rest > 0 ? ` ${rest} ${small}` : ""}`;
}

/** A duration as the API takes it. */
export function parameter(ms) {
  const units = [[86_400_000, "d"], [3_600_000, "h"], [60_000, "m"], [1_000, "s"]];
  const [unit, name] = units.find(([unit]) => ms % unit === 0 && ms > 0) ?? [1, "ms"];
  return `${ms / unit}${name}`;
}

const LONG_MS = 400 * 86_400_000;
const date = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

/** How long ago something was, roughly; the date if it was very long ago. */
export function since(ms) {
  if (ms < 1_000) return "now";
  if (ms > LONG_MS) return date.format(Date.now() - ms);
  const [unit, name] = [[86_400_000, "day"], [3_600_000, "hour"], [60_000, "minute"], [1_000, "second"]].find(([unit]) => ms >= unit);
  return ago.format(-Math.floor(ms / unit), name);
}

export const utc = (ms) => new Date(ms).toISOString().replace(".000Z", "Z").replace("T", " ");
export const local = (ms) => full.format(ms);
export const localClock = (ms) => clock.format(ms);
