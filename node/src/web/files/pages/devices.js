// Devices: search as you type, page by page.

import { get, segment } from "../api.js";
import { empty, h, head, put, trouble } from "../dom.js";
import { local, since, utc } from "../format.js";

const PAGE = 50;
const TYPING_MS = 180;
const MOST_STREAMS = 8;

function when(text) {
  if (!text) return "–";
  const ms = Date.parse(text);
  return h("time", { datetime: text, title: `${local(ms)} · ${utc(ms)} UTC` }, since(Math.max(Date.now() - ms, 0)));
}

export async function show(main) {
  const given = new URLSearchParams(location.search);
  const search = h("input", { type: "search", id: "q", value: given.get("q"), placeholder: "a part of a device's name", autocomplete: "off", spellcheck: "false" });
  const sites = h("select", { id: "site" }, h("option", { value: "" }, "all sites"));
  const list = h("div");
  const said = h("p", { class: "muted", role: "status" });
  const [back, next] = ["Previous", "Next"].map((text) => h("button", { type: "button", disabled: true }, text));
  put(main, head("Devices"),
    h("form", { class: "panel bar", role: "search", submit: (event) => event.preventDefault() },
      h("label", { for: "q" }, "Search"), search, h("span", { class: "pair" }, h("label", { for: "site" }, "Site"), sites)),
    said, list, h("div", { class: "pager" }, back, next));

  let places = [null]; // where each page begins that was seen
  let following = null;
  let stop = null;

  const ask = async () => {
    stop?.abort();
    stop = new AbortController();
    const [q, site, after] = [search.value.trim(), sites.value, places[places.length - 1]];
    const query = new URLSearchParams(Object.entries({ q, site }).filter(([, value]) => value)).toString();
    history.replaceState(null, "", query ? `?${query}` : location.pathname);
    try {
      const body = await get("/v1/devices", { q, site, after, limit: PAGE }, stop.signal);
      following = body.next;
      const first = (places.length - 1) * PAGE;
      const n = body.devices.length;
      said.textContent = n === 0 ? "" : `Devices ${first + 1} to ${first + n}${following ? ", and there are more" : ""}.`;
      put(list, n > 0 ? table(body.devices) : q || site
        ? empty("No device fits", "Search looks for a part of the name, upper and lower case alike. Try fewer letters, or all sites.")
        : empty("No devices yet", "A device appears when its first window has come: let it publish readings to a gateway over MQTT.", "cargo run --release at the root of the sources starts a whole site with simulated devices."));
      back.disabled = places.length === 1;
      next.disabled = !following;
    } catch (error) {
      if (error.name === "AbortError") return;
      put(list, trouble(error));
    }
  };
  const anew = () => {
    places = [null];
    return ask();
  };
  let typing = null;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(anew, TYPING_MS);
  });
  sites.addEventListener("change", anew);
  next.addEventListener("click", () => {
    places.push(following);
    ask();
  });
  back.addEventListener("click", () => {
    places.pop();
    ask();
  });

  try {
    const known = await get("/v1/sites");
    sites.append(...known.sites.map(({ site }) => h("option", { value: site }, site)));
    sites.value = given.get("site") ?? "";
    if (sites.selectedIndex < 0) sites.selectedIndex = 0;
  } catch {
    // Then all sites it is; the list itself says what is wrong.
  }
  await ask();
}

function table(devices) {
  const line = (d) => {
    const streams = d.streams.slice(0, MOST_STREAMS).map((s, i) => [i > 0 && " ", h("a", { class: "chip", href: `/streams/${segment(d.site)}/${segment(d.device)}/${segment(s.stream)}` }, s.stream)]);
    return h("tr", null,
      h("th", { scope: "row" }, h("a", { href: `/devices/${segment(d.site)}/${segment(d.device)}` }, d.device)),
      h("td", { "data-name": "Site" }, h("a", { href: `/sites/${segment(d.site)}` }, d.site)),
      h("td", { class: "chips", "data-name": "Streams" }, streams, d.streams.length > MOST_STREAMS && ` +${d.streams.length - MOST_STREAMS}`),
      h("td", { "data-name": "Last reading" }, when(d.last)),
      h("td", { "data-name": "First seen" }, when(d.first_seen)));
  };
  return h("div", { class: "panel flush" }, h("table", { class: "stack" },
    h("thead", null, h("tr", null, ["Device", "Site", "Streams", "Last reading", "First seen"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", null, devices.map(line))));
}
