// A stream's chart: windows as they are stored or merged upwards, and what comes in, live.

import { exactly, get, pages, segment } from "../api.js";
import { chooseEvery, floor, renew } from "../chart.js";
import { empty, h, head, put, trail, trouble } from "../dom.js";
import { count, duration, local, parameter, plural } from "../format.js";
import { follow } from "../live.js";
import { Plot } from "../plot.js";

const RANGES = [["1 h", 3_600_000], ["6 h", 21_600_000], ["24 h", 86_400_000], ["7 d", 604_800_000], ["all", null]];

/** How many spans a chart has at most, and how few pixels each may take. */
const MOST_SPANS = 1_200;
const LEAST_SPAN_PX = 2;
const GATHER_MS = 300;
const FUNCTIONS = "count,mean,min,max,stddev,late,set_aside,missing,parts,complete";
const MOST_GAPS = 500;

export async function show(main, site, device, stream) {
  const which = { site: exactly(site), device: exactly(device), stream: exactly(stream) };
  const state = h("span", { class: "state", role: "status" });
  const box = h("div");
  const wrong = h("div");
  const told = h("p", { class: "muted told" });
  const widths = h("select", { id: "width" });
  const widthBox = h("span", { hidden: true }, h("label", { for: "width" }, "Windows of "), widths);
  const back = h("button", { type: "button", hidden: true }, "Back from zoom");
  const ranges = RANGES.map(([text, ms]) => h("button", { type: "button", "aria-pressed": "false", click: () => range(ms) }, text));
  const panel = h("section", { class: "panel chart" },
    h("div", { class: "bar" }, h("div", { class: "group", role: "group", "aria-label": "Range" }, ranges), back, widthBox, state),
    wrong, box, told,
    h("p", { class: "legend" },
      h("span", null, h("i", { class: "key band" }), "min to max"), h("span", null, h("i", { class: "key mean" }), "mean"),
      h("span", null, h("i", { class: "key gap" }), "gap"), h("span", null, h("i", { class: "key late" }), "late readings"), h("span", null, h("i", { class: "key open" }), "may still change")),
    h("p", { class: "muted" }, "Drag to zoom, or use + and − with the chart focused; arrow keys read single spans."));
  put(main, trail(["Devices", "/devices"], [site, `/devices?site=${encodeURIComponent(site)}`], [device, `/devices/${segment(site)}/${segment(device)}`], [stream, null]), head(stream), panel);

  let known;
  try {
    const found = await get("/v1/devices", { ...which, limit: 1 });
    known = found.devices[0]?.streams?.find((s) => s.stream === stream);
  } catch (error) {
    put(panel, trouble(error));
    return;
  }
  if (!known) {
    put(panel, empty("No such stream here", "This node has received nothing of it. Check the names of site, device and stream."));
    return;
  }
  put(widths, known.widths_ms.map((ms) => h("option", { value: ms }, duration(ms))));
  widthBox.hidden = known.widths_ms.length < 2;

  const plot = new Plot(box, `${stream} of ${device}`, (a, b) => (a === null ? range(chosen) : zoom(a, b)));
  let chosen = RANGES[0][1];
  let fixed = null; // a stretch that was zoomed to
  let rows = [];
  let gaps = [];
  let every = 0;
  let turn = 0; // answers to an earlier question count for nothing
  let width = known.widths_ms[0];

  const stretch = () => {
    if (fixed) return fixed;
    const now = Date.now();
    if (chosen !== null) return [now - chosen, now];
    const first = known.first ? Date.parse(known.first) : now - 3_600_000;
    const last = known.last ? Date.parse(known.last) : now;
    return [first, Math.max(now - last < 2 * (now - first) ? now : last, first + width)];
  };
  const draw = () => {
    const [from, to] = stretch();
    plot.show({ rows, gaps, every, from, to });
    const late = rows.reduce((sum, row) => sum + row.late, 0);
    const readings = rows.reduce((sum, row) => sum + row.count, 0);
    const aside = rows.reduce((sum, row) => sum + row.set_aside, 0);
    const numbers = rows.reduce((sum, row) => sum + row.missing, 0);
    const missing = gaps.reduce((sum, gap) => sum + gap.windows, 0);
    told.textContent = `${plural(readings, "reading", "readings")} in ${plural(rows.length, "span", "spans")} of ${duration(every)}, ${count(late)} of them late${aside > 0 ? `, ${count(aside)} more set aside` : ""}${numbers > 0 ? `, ${count(numbers)} missing by their numbers` : ""}; ${missing === 0 ? "no window is missing" : `${plural(missing, "window is", "windows are")} missing in ${plural(gaps.length, "gap", "gaps")}`} between ${local(from)} and ${local(to)}.`;
  };
  const ask = async (from, to) => {
    const time = { from: new Date(from).toISOString(), to: new Date(to).toISOString() };
    const asked = { ...which, ...time, width: parameter(width) };
    const [answer, missing] = await Promise.all([
      pages("/v1/aggregates", { ...asked, every: parameter(every), fn: FUNCTIONS, limit: 10_000 }, "aggregates", 8),
      get("/v1/gaps", { ...asked, limit: MOST_GAPS }),
    ]);
    return [answer.rows, missing.gaps];
  };
  const all = async () => {
    const mine = (turn += 1);
    const [from, to] = stretch();
    const room = Math.min(MOST_SPANS, Math.max(box.clientWidth, 300) / LEAST_SPAN_PX);
    every = chooseEvery(to - from, width, room);
    try {
      const [newRows, newGaps] = await ask(floor(from, every), floor(to, every) + every);
      if (mine !== turn) return;
      [rows, gaps] = [newRows, newGaps];
      put(wrong);
      draw();
    } catch (error) {
      if (mine === turn) put(wrong, trouble(error));
    }
  };
  const newest = async (since) => {
    const mine = turn;
    const [from, to] = stretch();
    const start = floor(Math.max(since, from), every);
    const [newRows, newGaps] = await ask(start, floor(Math.max(to, Date.now()), every) + every);
    if (mine !== turn) return;
    rows = renew(rows, newRows, start, floor(from, every));
    gaps = [...gaps.filter((gap) => gap.to_ms <= start && gap.to_ms > from), ...newGaps];
    put(wrong);
    draw();
  };

  function pressed() {
    ranges.forEach((button, i) => button.setAttribute("aria-pressed", String(!fixed && RANGES[i][1] === chosen)));
    back.hidden = !fixed;
  }
  function range(ms) {
    [chosen, fixed] = [ms, null];
    pressed();
    return all();
  }
  function zoom(from, to) {
    const middle = (from + to) / 2;
    const half = Math.max((to - from) / 2, 2 * width);
    fixed = [middle - half, middle + half];
    pressed();
    return all();
  }
  back.addEventListener("click", () => range(chosen));
  widths.addEventListener("change", () => {
    width = Number(widths.value);
    all();
  });
  await range(chosen);

  let pending = null;
  let earliest = Infinity;
  const changed = (start) => {
    if (fixed && start !== null && (start < fixed[0] || start >= fixed[1])) return;
    // Not known from where on: from where the newest windows may still have changed.
    const open = rows.find((row) => !row.complete)?.start_ms ?? rows[rows.length - 2]?.start_ms ?? 0;
    earliest = Math.min(earliest, start ?? open);
    pending ??= setTimeout(async () => {
      const since = earliest;
      [pending, earliest] = [null, Infinity];
      try {
        await newest(since);
      } catch (error) {
        put(wrong, trouble(error));
      }
    }, GATHER_MS);
  };
  const states = { live: ["● live", "windows are shown as they come"], polling: ["○ every 5 s", "the node sends no live updates here; this page asks it every few seconds"] };
  follow(which, changed, (now) => {
    [state.textContent, state.title] = states[now];
    state.dataset.state = now;
  });
}
