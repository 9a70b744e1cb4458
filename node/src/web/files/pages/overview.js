// All sites: problems first, then each site with the completeness of its last hour, then the node itself.

import { get } from "../api.js";
import { empty, h, head, put, repeat, trouble } from "../dom.js";
import { bytes, count, duration, localClock, percent, plural, utc } from "../format.js";
import { cells, completeness, group, lastHour, legend, strip, together } from "../hour.js";

const EVERY_MS = 5_000;
const HOUR_EVERY_MS = 30_000;

/** How many streams of a site are shown at once, the least complete first. */
const MOST_STREAMS = 6;

const link = (site) => h("a", { href: `/sites/${encodeURIComponent(site)}` }, site);

/** Everything that a person should look at, the worst first. */
export function problems(sites, status, notReady) {
  const all = notReady.map((why) => ({ bad: true, site: null, text: `Node: ${why}` }));
  for (const site of sites) {
    const add = (bad, text) => all.push({ bad, site: site.site, text });
    if (site.gateways.length === 0) add(true, "no gateway has reported since the node started");
    for (const gateway of site.gateways) {
      if (gateway.heard === null) add(true, `gateway ${gateway.gateway} has never reported`);
      else if (gateway.silent) add(true, `gateway ${gateway.gateway} has been silent for ${duration(gateway.heard_ms_ago)}`);
      else if (gateway.trouble) add(true, `gateway ${gateway.gateway} says: ${gateway.trouble}`);
    }
    const unled = site.shard_count - site.shards_led;
    if (unled > 0) add(true, `${count(unled)} of ${count(site.shard_count)} shards have no leader`);
    const shards = status.sites.find((s) => s.site === site.site)?.shards ?? [];
    for (const shard of shards.filter((shard) => shard.conflict_seq !== null)) {
      add(true, `shard ${shard.shard}: batch ${shard.conflict_seq} came with two contents; the node confirms nothing more of it until shard_progress.conflict_seq is cleared`);
    }
    const given = shards.reduce((sum, shard) => sum + shard.given_up, 0);
    if (given > 0) add(false, `${plural(given, "batch was", "batches were")} given up: the site no longer has ${given === 1 ? "it" : "them"}`);
  }
  return all.sort((a, b) => Number(b.bad) - Number(a.bad));
}

function problemList(all) {
  if (all.length === 0) {
    return h("p", { class: "panel good" }, h("span", { class: "mark", "aria-hidden": "true" }, "✓"), "Nothing needs attention: the node hears its sites, all gateways report, and every shard has a leader.");
  }
  const item = (p) => h("li", { class: p.bad ? "bad" : "warn" },
    h("span", { class: "mark", "aria-hidden": "true" }, p.bad ? "✕" : "!"), h("span", { class: "sr" }, p.bad ? "Problem: " : "Note: "), p.site && [link(p.site), ": "], p.text);
  return h("section", { class: "panel problems" }, h("h2", null, `${all.length === 1 ? "One thing needs" : `${count(all.length)} things need`} attention`),
    h("ul", null, all.slice(0, 12).map(item)), all.length > 12 && h("p", { class: "muted" }, `and ${count(all.length - 12)} more`));
}

function fact(name, text, bad) {
  return h("div", { class: bad ? "fact bad" : "fact" }, h("dt", null, name), h("dd", null, bad ? "⚠ " : "", text));
}

function hourOf(site, hour, all) {
  if (!hour) return h("p", { class: "muted" }, "Asking for the last hour …");
  if (hour.error) return trouble(hour.error);
  const rows = hour.rows.filter((row) => row.site === site);
  const before = [...hour.before.keys()].map((key) => JSON.parse(key)).filter(([of]) => of === site).map(([, , stream]) => stream);
  const names = [...new Set([...rows.map((row) => row.stream), ...before])];
  if (names.length === 0) return h("p", { class: "muted" }, "No windows of the last hour. When devices publish to a gateway, their windows appear here once they are closed and sent.");
  const now = Date.now();
  const streams = names.map((name) => {
    const its = cells(rows.filter((row) => row.stream === name), hour.from, hour.step, now, hour.before.get(group({ site, device: null, stream: name })) ?? 0);
    return { name, its, share: completeness(its) };
  }).sort((a, b) => (a.share ?? 2) - (b.share ?? 2) || a.name.localeCompare(b.name));
  const its = together(streams.map((stream) => stream.its));
  const line = (name, all, what, main) => h("div", { class: main ? "hour main" : "hour" }, h("span", { class: "name", title: name }, name), strip(all, hour.step, what), h("span", { class: "share" }, percent(completeness(all))));
  const shown = all ? streams : streams.slice(0, MOST_STREAMS);
  return h("div", { class: "hours" },
    h("h4", null, `Completeness of the last hour, ${plural(Math.max(...its.map((cell) => cell.expected)), "stream", "streams")}`),
    line("All", its, `Site ${site}`, true),
    shown.map((stream) => line(stream.name, stream.its, `Stream ${stream.name}`, false)),
    !hour.whole && h("p", { class: "muted" }, "The hour has more windows than one answer holds; its end is left out."));
}

export async function show(main) {
  const top = head("Overview");
  const list = h("div", { "aria-live": "polite" });
  const sites = h("div", { class: "cards" });
  const node = h("section", { class: "panel" });
  put(main, top, list, h("div", { class: "section" }, h("h2", null, "Sites"), legend()), sites, node);

  const open = new Set();
  let known = null;
  let hour = null;

  const drawSites = () => {
    if (!known) return;
    if (known.length === 0) {
      put(sites, empty("No sites", "Name one in the node's settings: [[sites]] with name and secret_file."));
      return;
    }
    put(sites, known.map((site) => {
      const streams = new Set((hour?.rows ?? []).filter((row) => row.site === site.site).map((row) => row.stream)).size;
      const more = streams > MOST_STREAMS && h("button", {
        type: "button", "aria-expanded": String(open.has(site.site)), "data-key": site.site,
        click: () => {
          if (!open.delete(site.site)) open.add(site.site);
          drawSites();
          sites.querySelector(`[data-key="${CSS.escape(site.site)}"]`)?.focus();
        },
      }, open.has(site.site) ? "Show only the least complete" : `Show all ${count(streams)} streams`);
      const silent = site.gateways.length - site.live;
      return h("section", { class: "panel site", "data-site": site.site },
        h("h3", null, link(site.site)),
        h("dl", { class: "facts" },
          fact("gateways heard", `${site.live} of ${site.gateways.length}`, silent > 0 || site.gateways.length === 0),
          fact("shards led", `${count(site.shards_led)} of ${count(site.shard_count)}`, site.shards_led < site.shard_count),
          fact("outbox", site.outbox_batches === 0 ? "empty" : `${count(site.outbox_batches)} batches, ${bytes(site.outbox_bytes)}`),
          fact("open or waiting", `${count(site.waiting_parts)} parts`)),
        hourOf(site.site, hour, open.has(site.site)), more);
    }));
  };

  const askHour = async () => {
    try {
      hour = await lastHour({ group_by: "site,stream", fn: "count,late,complete" }, hour);
    } catch (error) {
      hour = { error, rows: [] };
    }
    drawSites();
  };

  const ask = async () => {
    try {
      const ready = get("/readyz").then(() => [], (error) => (error.why?.length ? error.why : [error.message]));
      const [answer, status, notReady] = await Promise.all([get("/v1/sites"), get("/v1/status"), ready]);
      const all = problems(answer.sites, status, notReady);
      const bad = (site) => all.filter((p) => p.site === site.site).length;
      known = answer.sites.toSorted((a, b) => bad(b) - bad(a));
      put(list, problemList(all));
      const refused = Object.entries(status.refused);
      put(node, h("h2", null, "This node"), h("dl", { class: "facts" },
        fact("version", status.version),
        fact("uplink", status.uplink_connected ? "connected" : "not connected", !status.uplink_connected),
        fact("batches applied", count(status.batches_applied)),
        fact("on their way", count(status.batches_missing)),
        fact("given up", count(status.batches_given_up), status.batches_given_up > 0),
        fact("refused", refused.length === 0 ? "none" : refused.map(([why, n]) => `${why.replaceAll("_", " ")} ${count(n)}`).join(", "), false),
        fact("as of", h("span", { title: `${utc(Date.parse(status.now))} UTC` }, localClock(Date.parse(status.now))))));
      drawSites();
    } catch (error) {
      put(list, trouble(error));
    }
  };
  await repeat(EVERY_MS, ask);
  repeat(HOUR_EVERY_MS, askHour);
}
