// A site: its ring with leaders and replicas, its gateways, what moves between them, and a table of its shards.

import { get } from "../api.js";
import { empty, h, head, put, repeat, s, trail, trouble } from "../dom.js";
import { bytes, count, duration, localClock, percent, plural, since, utc } from "../format.js";
import { colour, drawRing, moveShare, words } from "../ring.js";

const EVERY_MS = 5_000;

/** The columns of the table of shards: name, what is sorted by, what is shown. */
const COLUMNS = [
  ["Shard", (s) => s.shard, (s) => String(s.shard)],
  ["Leader", (s) => s.leader ?? -1, (s, index) => (s.leader === null ? "none" : badge(s.leader, index(s.leader)))],
  ["Replicas", (s) => s.replicas.length, (s) => s.replicas.join(", ")],
  ["Confirmed", (s) => s.at.cursor ?? -1, (s) => count(s.at.cursor)],
  ["Cut", (s) => Math.max(s.at.edge_last ?? -1, s.last ?? -1), (s) => count(Math.max(s.at.edge_last ?? 0, s.last ?? 0))],
  ["Outbox", (s) => s.outbox_bytes ?? -1, (s) => (s.leader === null ? "–" : s.outbox_batches === 0 ? "0" : `${count(s.outbox_batches)} (${bytes(s.outbox_bytes)})`)],
  ["Lag", (s) => s.at.missing ?? -1, (s) => (s.at.missing > 0 ? `${count(s.at.missing)} batches` : "0")],
  ["Open parts", (s) => s.waiting_parts ?? -1, (s) => count(s.waiting_parts)],
  ["Oldest waits", (s) => s.waiting_ms ?? -1, (s) => (s.waiting_ms > 0 ? duration(s.waiting_ms) : "–")],
  ["Given up", (s) => s.at.given_up ?? 0, (s) => count(s.at.given_up ?? 0)],
  ["Heard", (s) => Date.parse(s.at.last_heard ?? 0) || 0, (s, _, now) => (s.at.last_heard ? since(now - Date.parse(s.at.last_heard)) : "–")],
];

function badge(gateway, index) {
  return h("span", { class: `badge ${colour(index)}` }, String(gateway));
}

const isBad = (s) => s.leader === null || (s.at.given_up ?? 0) > 0 || (s.at.conflict_seq ?? null) !== null;

/** A bar filled up to `share`, with a tick at `mark`; both are shares of its length. */
function bar(share, mark, c) {
  return s("svg", { class: "level", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "whole", width: 100, height: 8 }),
    s("rect", { class: `part ${c}`, width: (100 * Math.min(share, 1)).toFixed(2), height: 8 }),
    mark !== null && s("rect", { class: "mark-at", x: Math.min(99, 100 * mark).toFixed(2), width: 1, height: 8 }));
}

/** What a gateway holds, and what it should: a draining one empties, a new one fills. */
function held(g, most, c) {
  const goal = g.replicas === g.wanted_replicas ? "" : `, ${g.wanted_replicas} when all moves are done`;
  return h("p", { class: "held muted" }, bar(g.replicas / most, goal ? g.wanted_replicas / most : null, c), `${plural(g.replicas, "replica", "replicas")}${goal}`);
}

function moveItem(m, index) {
  const named = (gateway) => (gateway === null ? null : h("span", { class: `badge ${colour(index(gateway))}`, title: `Gateway ${gateway}` }, String(gateway)));
  const how = m.total_bytes === null ? m.phase : `${m.phase}, ${bytes(m.done_bytes)} of ${bytes(m.total_bytes)} (${percent(moveShare(m))})`;
  const whence = m.from === null ? "one more replica" : m.to === null ? "one replica less" : null;
  return h("li", null,
    h("strong", null, m.shard === null ? "directory" : `shard ${m.shard}`),
    h("span", { class: "route" }, named(m.from), h("span", { "aria-label": "to" }, "→"), named(m.to), whence && h("span", { class: "muted" }, whence)),
    bar(moveShare(m), null, m.to === null ? "c-none" : colour(index(m.to))), h("span", { class: "muted" }, how));
}

/** A gateway's state in the site, unless it is the usual one. */
const STATES = { joining: ["warn", "joining"], draining: ["warn", "draining"], gone: ["muted", "removed"] };

function gatewayItem(g, index, most, light) {
  const how = g.state === "gone" ? ["muted", g.replicas > 0 ? "its replicas are being rebuilt" : "its process can be stopped"] : g.heard === null ? ["bad", "✕ never reported"] : g.silent ? ["bad", "✕ silent"] : g.trouble ? ["warn", "! not ready"] : ["good", "✓ ready"];
  return h("li", { tabindex: "0", pointerenter: () => light(g.gateway), pointerleave: () => light(null), focus: () => light(g.gateway), blur: () => light(null) },
    badge(g.gateway, index(g.gateway)),
    h("div", null,
      h("strong", null, `Gateway ${g.gateway}`), " ", STATES[g.state] && [h("span", { class: `state-word ${STATES[g.state][0]}` }, STATES[g.state][1]), " "], h("span", { class: how[0] }, how[1]),
      held(g, most, colour(index(g.gateway))),
      (g.weight > 1 || g.zone || g.witness) && h("p", { class: "muted" }, [g.witness && "witness", g.weight > 1 && `weight ${count(g.weight)}`, g.zone && `zone ${g.zone}`].filter(Boolean).join(" · ")),
      h("p", { class: "muted" },
        g.heard === null ? "The site names it, but it has not reported since the node started." : [
          `leads ${count(g.leads)} · `, h("span", { title: `${utc(Date.parse(g.heard))} UTC` }, `heard ${since(g.heard_ms_ago)}`),
          ` · up ${duration(g.uptime_ms)} · ${count(g.connections)} connections · ${count(g.publishes_acked)} publishes acknowledged`,
          Math.abs(g.clock_ahead_ms) > 2_000 && ` · its clock is ${duration(Math.abs(g.clock_ahead_ms))} ${g.clock_ahead_ms > 0 ? "ahead" : "behind"}`]),
      g.trouble && h("p", { class: "warn" }, g.trouble),
      g.skipped?.length > 0 && h("p", { class: "muted" }, "skipped, because they are not numbers: ",
        g.skipped.map((s) => `${s.device} ${s.field} (${s.why}, ${count(s.count)}×)`).join(", "))));
}

export async function show(main, name) {
  let [sort, down, onlyBad, looked] = [0, false, false, -1];
  let shards = [];
  let site = null;
  let index = () => -1;

  const said = h("p", { class: "said", "aria-live": "polite" });
  const ring = h("div", { class: "ringbox" });
  const legend = h("ul", { class: "gateways", "aria-label": "Gateways" });
  const facts = h("dl", { class: "facts tiles" });
  const moving = h("ul", { class: "moves", "aria-label": "Moves" });
  const still = h("p", { class: "muted" });
  const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Shards" });
  const wrong = h("div");
  const filter = h("input", { type: "checkbox", change: (event) => { onlyBad = event.target.checked; drawTable(); } });
  const view = h("div", { hidden: true },
    h("div", { class: "split" },
      h("section", { class: "panel" }, h("h2", null, "Ring"), ring, said, h("p", { class: "muted" }, "The outer ring shows the leader of each shard, the inner rings the gateways with its other replicas. A bar outside is a replica that moves, in the colour of the gateway that receives it.")),
      h("section", { class: "panel" }, facts, h("h2", null, "Moves"), still, moving, h("h2", null, "Gateways"), legend)),
    h("section", { class: "panel" }, h("div", { class: "section" }, h("h2", null, "Shards"), h("label", null, filter, " only those with problems")), table));
  put(main, trail(["Overview", "/"], [name, null]), head(`Site ${name}`, h("a", { class: "button", href: `/devices?site=${encodeURIComponent(name)}` }, "Its devices")), wrong, view);

  const light = (gateway) => {
    for (const path of ring.querySelectorAll("path")) path.classList.toggle("dim", gateway !== null && path.dataset.gateway !== String(gateway));
  };

  const look = (i, follow) => {
    looked = i;
    for (const [k, group] of ring.querySelectorAll(".shard").entries()) group.classList.toggle("looked", k === i);
    const shard = shards[i];
    said.textContent = shard ? `${words(shard)}${shard.leader === null ? "" : `, ${count(shard.outbox_batches)} batches in its outbox`}.` : "Point at a shard, or walk with the arrow keys.";
    for (const row of table.querySelectorAll("tbody tr")) {
      const same = shard && row.dataset.shard === String(shard.shard);
      row.classList.toggle("looked", Boolean(same));
      if (same && follow) row.scrollIntoView({ block: "nearest" });
    }
  };

  const drawTable = () => {
    const now = Date.now();
    const rows = shards.filter((s) => !onlyBad || isBad(s)).toSorted((a, b) => {
      const by = COLUMNS[sort][1];
      return (down ? by(b) - by(a) : by(a) - by(b)) || a.shard - b.shard;
    });
    const header = COLUMNS.map(([text], i) => h("th", { scope: "col", "aria-sort": i === sort ? (down ? "descending" : "ascending") : null },
      h("button", { type: "button", "data-column": i, click: () => { [sort, down] = [i, sort === i ? !down : false]; drawTable(); table.querySelector(`[data-column="${i}"]`).focus(); } },
        text, h("span", { "aria-hidden": "true" }, i === sort ? (down ? " ▼" : " ▲") : ""))));
    const line = (s) => h("tr", { "data-shard": s.shard, class: isBad(s) ? "bad" : null }, COLUMNS.map(([, , shown], i) => {
      const content = shown(s, index, now);
      return i === 0 ? h("th", { scope: "row" }, content) : h("td", null, content);
    }));
    put(table, rows.length === 0
      ? h("p", { class: "muted" }, onlyBad ? "No shard has a problem." : "No shards are known yet.")
      : h("table", null, h("thead", null, h("tr", null, header)), h("tbody", null, rows.map(line))));
    look(looked, false);
  };

  const ask = async () => {
    try {
      const [answer, status] = await Promise.all([get(`/v1/sites/${encodeURIComponent(name)}`), get("/v1/status")]);
      site = answer;
      put(wrong);
      if (site.gateways.length === 0) {
        view.hidden = true;
        put(wrong, empty("No gateway has reported yet", "A gateway reports every few seconds once it is connected. Check that its settings name this node's broker, this site and the site's secret.", "After a restart the node knows nothing until the first report comes."));
        return;
      }
      view.hidden = false;
      const at = new Map((status.sites.find((s) => s.site === name)?.shards ?? []).map((s) => [s.shard, s]));
      const moves = new Map(site.moves.map((m) => [m.shard, m]));
      shards = site.shards.map((s) => ({ ...s, at: at.get(s.shard) ?? {}, move: moves.get(s.shard) ?? null }));
      const places = site.gateways.map((g) => g.gateway);
      index = (gateway) => places.indexOf(gateway);
      const here = site.gateways.filter((g) => g.state !== "gone");
      const most = Math.max(1, ...site.gateways.map((g) => Math.max(g.replicas, g.wanted_replicas)));
      const fact = (text, said, bad) => h("div", { class: bad ? "fact bad" : "fact" }, h("dt", null, text), h("dd", null, bad ? "⚠ " : "", said));
      const sum = (of) => shards.reduce((sum, shard) => sum + (of(shard) ?? 0), 0);
      put(facts,
        fact("gateways heard", `${site.live} of ${here.length}`, here.some((g) => g.silent)),
        fact("shards led", `${count(site.shards_led)} of ${count(site.shard_count)}`, site.shards_led < site.shard_count),
        fact("outbox", site.outbox_batches === 0 ? "empty" : `${count(site.outbox_batches)} batches, ${bytes(site.outbox_bytes)}`),
        fact("on their way", `${count(sum((s) => s.at.missing))} batches`),
        fact("given up", `${count(sum((s) => s.at.given_up))} batches`, sum((s) => s.at.given_up) > 0),
        fact("as of", h("span", { title: `${utc(Date.parse(site.now))} UTC` }, localClock(Date.parse(site.now)))));
      const focused = document.activeElement?.classList.contains("ring");
      const drawn = drawRing(shards, index, look);
      drawn.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (step === undefined) return;
        event.preventDefault();
        look((looked + step + shards.length) % shards.length, true);
      });
      put(ring, drawn);
      if (focused) drawn.focus({ preventScroll: true });
      const lit = legend.contains(document.activeElement) ? [...legend.children].indexOf(document.activeElement) : -1;
      // Those in trouble come first; a colour belongs to a gateway wherever it stands.
      const rank = (g) => (g.state === "gone" ? 3 : g.silent ? 0 : g.trouble ? 1 : 2);
      put(legend, site.gateways.toSorted((a, b) => rank(a) - rank(b)).map((g) => gatewayItem(g, index, most, light)));
      still.hidden = site.moves.length > 0 && !site.moves_paused;
      still.textContent = site.moves_paused ? "All moves are paused." : "No replica moves now.";
      put(moving, site.moves.map((m) => moveItem(m, index)));
      if (lit >= 0) legend.children[lit]?.focus();
      const column = document.activeElement?.dataset?.column;
      drawTable();
      if (column) table.querySelector(`[data-column="${column}"]`)?.focus();
    } catch (error) {
      put(wrong, trouble(error));
    }
  };
  await repeat(EVERY_MS, ask);
}
