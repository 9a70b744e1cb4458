// A device: its streams, each with its last value and its last hour.

import { exactly, get, pages, segment } from "../api.js";
import { empty, h, head, put, repeat, trail, trouble } from "../dom.js";
import { count, duration, local, percent, plural, since, utc, value } from "../format.js";
import { HOUR_MS, cells, completeness, group, lastHour, legend, strip } from "../hour.js";
import { spark } from "../plot.js";

const EVERY_MS = 10_000;

/** What of a stream the site set aside, and which numbers are missing between its readings, since it began. */
function lost(stream) {
  const missing = stream.missing > 0 ? ` · ${plural(stream.missing, "sequence number is", "sequence numbers are")} missing` : "";
  return (stream.set_aside > 0 ? ` · ${count(stream.set_aside)} set aside` : "") + missing;
}

export async function show(main, site, device) {
  const list = h("div", { class: "cards" });
  put(main, trail(["Devices", "/devices"], [site, `/devices?site=${encodeURIComponent(site)}`], [device, null]),
    head(device, h("a", { class: "button", href: `/sites/${segment(site)}` }, `Site ${site}`)), h("div", { class: "section" }, h("h2", null, "Streams in the last hour"), legend()), list);
  const which = { site: exactly(site), device: exactly(device) };

  let hour = null;
  await repeat(EVERY_MS, async () => {
    try {
      const [found, latest, newest] = await Promise.all([
        get("/v1/devices", { ...which, limit: 1 }),
        pages("/v1/latest", { ...which, limit: 10_000, fn: "last,mean,complete" }, "latest", 2),
        lastHour({ ...which, fn: "mean,min,max,count,late,complete" }, hour),
      ]);
      hour = newest;
      const streams = found.devices[0]?.streams ?? [];
      if (streams.length === 0) {
        put(list, empty("No such device here", "This node has received nothing from it. Check the names of the device and the site."));
        return;
      }
      const now = Date.now();
      put(list, streams.map((stream) => {
        const last = latest.rows.find((row) => row.stream === stream.stream);
        const rows = hour.rows.filter((row) => row.stream === stream.stream);
        const its = cells(rows, hour.from, hour.step, now, hour.before.get(group({ site, device, stream: stream.stream })) ?? 0);
        return h("section", { class: "panel stream" },
          h("h3", null, h("a", { href: `/streams/${segment(site)}/${segment(device)}/${segment(stream.stream)}` }, stream.stream)),
          h("p", { class: "big" }, value(last?.last?.value), " ",
            last && h("span", { class: "muted", title: `${local(last.last.time_ms)} · ${utc(last.last.time_ms)} UTC` }, since(Math.max(now - last.last.time_ms, 0)))),
          rows.length > 0 ? spark(rows, hour.step, hour.from, hour.from + HOUR_MS) : h("p", { class: "muted" }, "silent in the last hour"),
          h("div", { class: "hour alone" }, strip(its, hour.step, `Stream ${stream.stream}`), h("span", { class: "share" }, percent(completeness(its)))),
          h("p", { class: "muted" }, `windows of ${stream.widths_ms.map(duration).join(", ")} · ${count(rows.reduce((sum, row) => sum + row.count, 0))} readings in the hour${lost(stream)}`));
      }));
    } catch (error) {
      put(list, trouble(error));
    }
  });
}
