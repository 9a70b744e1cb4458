// Draws a stream's chart, and lets a person read and zoom it with a pointer or the keyboard.

import { bandPath, extent, gapsBetween, linePath, nearest, scale, ticks, timeTicks } from "./chart.js";
import { h, put, s } from "./dom.js";
import { count, duration, local, utc, value } from "./format.js";

const LEFT = 58;
const RIGHT = 14;
const TOP = 14;
const BOTTOM = 44;
const LEAST_ZOOM_PX = 6;
const DAY_MS = 86_400_000;

function timeText(step) {
  const options = step >= DAY_MS ? { month: "short", day: "numeric" }
    : step >= 60_000 ? { hour: "2-digit", minute: "2-digit" }
      : { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const format = new Intl.DateTimeFormat(undefined, options);
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
  let before = null;
  return (ms) => {
    const today = day.format(ms);
    const changed = step < DAY_MS && today !== before;
    before = today;
    return [format.format(ms), changed ? today : null];
  };
}

/** What is said of a span. */
function readOut(row) {
  const pair = (name, text) => h("div", null, h("dt", null, name), h("dd", null, text));
  const state = row.complete ? "complete" : "may still change";
  return [
    h("p", { class: "when", title: `${utc(row.start_ms)} UTC` }, local(row.start_ms), h("span", { class: "muted" }, ` + ${duration(row.width_ms)} · ${state}`)),
    h("dl", null,
      pair("mean", value(row.mean)), pair("min", value(row.min)), pair("max", value(row.max)), pair("readings", count(row.count)),
      pair("deviation", value(row.stddev)), pair("late", count(row.late)), row.set_aside > 0 && pair("set aside", count(row.set_aside)), row.missing > 0 && pair("missing", count(row.missing)), pair("parts", count(row.parts))),
  ];
}

/** A chart in an element. `zoomed` hears of a stretch of time that a person has chosen. */
export class Plot {
  constructor(into, name, zoomed) {
    this.zoomed = zoomed;
    this.name = name;
    this.data = null;
    this.at = -1;
    this.drag = null;
    this.svg = s("svg", { class: "plot", role: "img", tabindex: "0" });
    this.read = h("div", { class: "readout", "aria-live": "polite" });
    put(into, this.svg, this.read);
    this.svg.addEventListener("pointermove", (event) => this.move(event));
    this.svg.addEventListener("pointerleave", () => this.drag === null && this.choose(-1));
    this.svg.addEventListener("pointerdown", (event) => this.down(event));
    this.svg.addEventListener("pointerup", (event) => this.up(event));
    this.svg.addEventListener("pointercancel", () => this.endDrag());
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.data && this.draw()).observe(this.svg);
  }

  /** Other data: rows of spans of `every` ms, gaps, from when to when. */
  show(data) {
    const chosen = this.at >= 0 ? this.data.rows[this.at]?.start_ms : null;
    this.data = data;
    this.at = chosen === null || chosen === undefined ? -1 : data.rows.findIndex((row) => row.start_ms === chosen);
    this.draw();
  }

  draw() {
    const { rows, gaps, every, from, to } = this.data;
    const width = Math.max(this.svg.clientWidth, 200);
    const height = Math.max(this.svg.clientHeight, 200);
    const x = scale([from, to], [LEFT, width - RIGHT]);
    const [low, high] = extent(rows);
    const y = scale([low, high], [height - BOTTOM, TOP]);
    Object.assign(this, { x, y, base: height - BOTTOM });
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const late = rows.filter((row) => row.late > 0);
    const holes = [...gapsBetween(rows, every), ...gaps];
    this.svg.setAttribute("aria-label",
      `${this.name}: ${rows.length} spans from ${local(from)} to ${local(to)}, ${gapsBetween(rows, every).length} gaps, ${late.length} spans with late readings. Arrow keys read them.`);

    const base = height - BOTTOM;
    const clip = (ms) => Math.min(Math.max(x(ms), LEFT), width - RIGHT);
    const text = timeText(timeTicks(from, to, (width - LEFT) / 90, 0).step);
    const offset = -new Date(to).getTimezoneOffset() * 60_000;
    const times = timeTicks(from, to, (width - LEFT - RIGHT) / 90, offset).all.map((ms) => {
      const [clock, day] = text(ms);
      return s("g", { class: "tick" },
        s("line", { x1: x(ms), x2: x(ms), y1: base, y2: base + 5 }),
        s("text", { x: x(ms), y: base + 18 }, clock, s("title", null, `${utc(ms)} UTC`)),
        day && s("text", { x: x(ms), y: base + 34, class: "day" }, day));
    });
    const values = ticks(low, high, height / 60).map((n) => s("g", { class: "tick" },
      s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(n), y2: y(n) }),
      s("text", { x: LEFT - 8, y: y(n) + 4, class: "value" }, value(n))));
    put(this.svg,
      s("defs", null, s("pattern", { id: "hatch", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
        s("rect", { width: 7, height: 7, class: "hatch-back" }), s("line", { x1: 0, x2: 0, y1: 0, y2: 7, class: "hatch-line" })),
      s("clipPath", { id: "inside" }, s("rect", { x: LEFT, y: 0, width: width - LEFT - RIGHT, height: height }))),
      holes.map((gap) => s("rect", { class: "gap", x: clip(gap.from_ms), y: TOP, width: Math.max(clip(gap.to_ms) - clip(gap.from_ms), 1.5), height: base - TOP, fill: "url(#hatch)" },
        s("title", null, `Gap: nothing from ${local(gap.from_ms)} to ${local(gap.to_ms)} (${duration(gap.to_ms - gap.from_ms)})`))),
      values, times,
      s("g", { "clip-path": "url(#inside)" },
        s("path", { class: "band", d: bandPath(rows, every, x, y) }),
        s("path", { class: "mean", d: linePath(rows, every, x, y) }),
        rows.length <= 90 && rows.filter((row) => row.mean !== null).map((row) => s("circle", { class: row.complete ? "dot" : "dot open", cx: x(row.start_ms + every / 2), cy: y(row.mean), r: 3 })),
        late.map((row) => {
          const at = x(row.start_ms + every / 2);
          return s("path", { class: "late", d: `M${at - 5} ${base}L${at + 5} ${base}L${at} ${base - 9}Z` }, s("title", null, `${count(row.late)} late readings`));
        })),
      s("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: base, y2: base }),
      this.select = s("rect", { class: "select", y: TOP, height: base - TOP, width: 0 }),
      this.cross = s("g", { class: "cross" }));
    this.mark();
  }

  /** Marks and tells the span that is looked at; else the newest. */
  mark() {
    const { rows, every } = this.data;
    const row = rows[this.at];
    put(this.cross);
    if (row) {
      const at = this.x(row.start_ms + every / 2);
      this.cross.append(s("line", { x1: at, x2: at, y1: TOP, y2: this.base }));
      if (row.mean !== null) this.cross.append(s("circle", { cx: at, cy: this.y(row.mean), r: 5 }));
    }
    const told = row ?? rows[rows.length - 1];
    put(this.read, told ? [h("h3", null, row ? "This span" : "Newest"), readOut(told)] : h("p", { class: "muted" }, "No windows in this time."));
  }

  choose(index) {
    if (index === this.at) return;
    this.at = index;
    this.mark();
  }

  place(event) {
    const box = this.svg.getBoundingClientRect();
    return event.clientX - box.left;
  }

  move(event) {
    if (!this.data) return;
    const px = this.place(event);
    if (this.drag !== null) {
      const [a, b] = [Math.min(px, this.drag), Math.max(px, this.drag)];
      this.select.setAttribute("x", a);
      this.select.setAttribute("width", b - a);
      return;
    }
    this.choose(nearest(this.data.rows, this.data.every, this.x.back(px)));
  }

  down(event) {
    if (!this.data || event.button !== 0 || event.pointerType === "touch") return;
    this.drag = this.place(event);
    this.svg.setPointerCapture(event.pointerId);
  }

  up(event) {
    if (this.drag === null) return;
    const [a, b] = [this.drag, this.place(event)].sort((a, b) => a - b);
    this.endDrag();
    if (b - a >= LEAST_ZOOM_PX) this.zoomed(this.x.back(Math.max(a, LEFT)), this.x.back(b));
  }

  endDrag() {
    this.drag = null;
    this.select?.setAttribute("width", 0);
  }

  key(event) {
    if (!this.data) return;
    const { rows, from, to } = this.data;
    const last = rows.length - 1;
    const now = this.at < 0 ? last + 1 : this.at;
    const half = (to - from) / 4;
    const middle = this.at < 0 ? (from + to) / 2 : rows[this.at].start_ms;
    if (event.key === "ArrowLeft") this.choose(Math.max(now - 1, Math.min(last, 0)));
    else if (event.key === "ArrowRight") this.choose(Math.min(now + 1, last));
    else if (event.key === "Home") this.choose(Math.min(last, 0));
    else if (event.key === "End") this.choose(last);
    else if (event.key === "+") this.zoomed(middle - half, middle + half);
    else if (event.key === "-" || event.key === "Escape") this.zoomed(null, null);
    else return;
    event.preventDefault();
  }
}

/** A small chart of a stream's means, for lists. */
export function spark(rows, every, from, to) {
  const [width, height] = [160, 34];
  const x = scale([from, to], [1, width - 1]);
  const y = scale(extent(rows), [height - 2, 2]);
  return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "band", d: bandPath(rows, every, x, y) }), s("path", { class: "mean", d: linePath(rows, every, x, y) }));
}
