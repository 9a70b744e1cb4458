// What the scripts of the pages reckon, without a browser: node --test node/tests/web/reckon.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { EventParser, address, exactly, nameOf, segment } from "../../src/web/files/api.js";
import { bandPath, chooseEvery, extent, gapsBetween, linePath, nearest, renew, runs, scale, ticks, timeTicks } from "../../src/web/files/chart.js";
import { bytes, duration, parameter, percent } from "../../src/web/files/format.js";
import { cells, completeness, lastHour, together } from "../../src/web/files/hour.js";
import { arcPath, arcs, colour, moveShare, words } from "../../src/web/files/ring.js";

const row = (n, value = n) => ({ start_ms: n * 10, min: value - 1, mean: value, max: value + 1, late: 0 });

test("spans are multiples of the stored width, and no more than fit", () => {
  assert.equal(chooseEvery(3_600_000, 10_000, 600), 10_000);
  assert.equal(chooseEvery(86_400_000, 10_000, 600), 300_000);
  assert.equal(chooseEvery(7 * 86_400_000, 10_000, 600), 1_800_000);
  for (const width of [1, 7_000, 10_000, 3_600_000, 86_400_000]) {
    for (const span of [1, 3_600_000, 86_400_000, 400 * 86_400_000, 60 * 365 * 86_400_000]) {
      const every = chooseEvery(span, width, 500);
      assert.equal(every % width, 0, `${width} ${span}`);
      assert.ok(span / every <= 500);
    }
  }
});

test("a scale goes there and back", () => {
  const x = scale([10, 20], [100, 300]);
  assert.equal(x(15), 200);
  assert.equal(x.back(200), 15);
  assert.equal(scale([5, 5], [0, 9])(5), 0);
});

test("ticks are round and inside", () => {
  assert.deepEqual(ticks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(ticks(-3, 7, 4), [0, 5]);
  assert.deepEqual(ticks(3, 3, 4), [3]);
  const { step, all } = timeTicks(0, 86_400_000, 6, 5_400_000);
  assert.equal(step, 21_600_000);
  for (const at of all) assert.equal((at + 5_400_000) % step, 0, "round on the local clock");
});

test("what follows each other is one run, a gap ends it", () => {
  const rows = [row(0), row(1), row(4), { ...row(5), mean: null }, row(6)];
  assert.deepEqual(runs(rows, 10).map((run) => run.length), [2, 1, 1]);
  assert.deepEqual(gapsBetween([row(0), row(1), row(4)], 10), [{ from_ms: 20, to_ms: 40 }]);
  const same = (n) => n;
  assert.equal(bandPath([row(0, 5)], 10, same, same), "M0.0 6.0L10.0 6.0L10.0 4.0L0.0 4.0Z");
  assert.equal(linePath([row(0, 5), row(1, 7)], 10, same, same), "M5.0 5.0L15.0 7.0");
  assert.equal(linePath([row(0, 5)], 10, same, same), "M0.0 5.0L10.0 5.0", "one alone is seen");
  assert.equal(linePath([], 10, same, same), "");
});

test("values have room around them", () => {
  assert.deepEqual(extent([]), [0, 1]);
  const [low, high] = extent([{ min: 0, max: 100 }]);
  assert.ok(low < 0 && high > 100);
  const [a, b] = extent([{ min: 7, max: 7 }]);
  assert.ok(a < 7 && b > 7);
});

test("the span under the pointer is found", () => {
  const rows = [row(0), row(1), row(5)];
  assert.deepEqual([-5, 0, 12, 21, 45, 90].map((ms) => nearest(rows, 10, ms)), [0, 0, 1, 1, 2, 2]);
  assert.equal(nearest([], 10, 0), -1);
});

test("newer answers replace what they are about, and what is too old goes", () => {
  const rows = renew([row(0), row(1), row(2)], [row(2, 9), row(3)], 20, 10);
  assert.deepEqual(rows.map((r) => [r.start_ms, r.mean]), [[10, 1], [20, 9], [30, 3]]);
});

test("events are taken apart wherever the pieces end", () => {
  const text = "retry: 3000\n\nid: 7-1\nevent: window\ndata: {\"a\":1}\n\n: nothing new\n\nevent: lagged\ndata: 1\ndata: 2\n\nevent: window\nda";
  for (let cut = 0; cut <= text.length; cut += 1) {
    const parser = new EventParser();
    const all = [...parser.feed(text.slice(0, cut)), ...parser.feed(text.slice(cut))];
    assert.deepEqual(all, [{ event: "window", data: "{\"a\":1}", id: "7-1" }, { event: "lagged", data: "1\n2", id: null }]);
  }
});

test("what is asked is encoded, and a star in a name is a star", () => {
  assert.equal(address("/v1/devices", { q: "a&b", after: null, limit: 5 }), "/v1/devices?q=a%26b&limit=5");
  assert.equal(address("/v1/sites"), "/v1/sites");
  assert.equal(exactly("a*\\b"), "a\\*\\\\b");
  assert.deepEqual(["..", ".", "~", "~..", "a/b%?#", "...", "ä\n"].map(segment), ["~..", "~.", "~~", "~~..", "a%2Fb%25%3F%23", "...", "%C3%A4%0A"]);
  for (const name of ["..", ".", "~", "~..", "~~x", "a/b%?#", "...", "ä\n", "a*b", "%2e"]) {
    assert.equal(nameOf(segment(name)), name);
    assert.equal(nameOf(new URL(`/devices/s/${segment(name)}`, "http://x").pathname.split("/").pop()), name);
  }
});

test("numbers as a person reads them", () => {
  assert.equal(percent(0.9999), percent(0.999), "never rounded up to all");
  assert.notEqual(percent(1), percent(0.9999));
  assert.equal(bytes(0), "0 B");
  assert.match(bytes(1_536), /^1.5 KiB$/);
  assert.deepEqual([0, 999, 61_000, 3_600_000, 90_061_000].map(duration), ["0 s", "999 ms", "1 min 1 s", "1 h", "1 d 1 h"]);
  assert.deepEqual([86_400_000, 60_000, 1_500].map(parameter), ["1d", "1m", "1500ms"]);
});

test("an hour: what is missing, what may still come, what had not begun", () => {
  const minute = (n, streams) => ({ start_ms: n * 60_000, streams, late: 0, complete: true });
  const now = 60 * 60_000;
  const kinds = (all) => [...new Set(all.map((cell) => cell.kind))].map((kind) => `${kind} ${all.filter((cell) => cell.kind === kind).length}`).sort();
  const rows = Array.from({ length: 30 }, (_, i) => minute(i + 20, i === 3 ? 1 : 2));
  const young = cells(rows, 0, 60_000, now, 0);
  assert.deepEqual(kinds(young), ["before 20", "coming 2", "full 29", "none 8", "some 1"]);
  const old = cells(rows, 0, 60_000, now, 2);
  assert.deepEqual(kinds(old), ["coming 2", "full 29", "none 28", "some 1"]);
  assert.equal(completeness(old), 59 / 116);
  assert.deepEqual(kinds(cells([], 0, 60_000, now, 3)), ["coming 2", "none 58"], "silent since an hour");
  assert.equal(completeness(cells([], 0, 60_000, now, 0)), null);
  const both = together([young, old]);
  assert.equal(both.length, 60);
  assert.deepEqual([both[0].kind, both[21].kind, both[23].kind, both[59].kind], ["none", "full", "some", "coming"]);
});

test("a ring has an arc for each shard and closes", () => {
  const shards = Array.from({ length: 256 }, (_, shard) => ({ shard, leader: shard % 50, replicas: [shard % 50, (shard + 1) % 50, (shard + 2) % 50] }));
  const all = arcs(shards);
  assert.deepEqual([all.length, all[0].from, all[255].to], [256, 0, 1]);
  assert.deepEqual(all[7].others, [8, 9]);
  assert.deepEqual(arcs([{ shard: 0, leader: null, replicas: [1, 2] }])[0].others, [1, 2]);
  assert.ok(!arcPath(10, 20, 0, 1).includes("NaN"));
  assert.equal(new Set(Array.from({ length: 32 }, (_, i) => colour(i))).size, 32);
  assert.equal(colour(-1), "c-none");
});

test("an hour is asked for in minutes, in more if they don't fit, and then only its end", async () => {
  const asked = [];
  globalThis.sessionStorage = { getItem: () => null };
  globalThis.fetch = async (url) => {
    const query = new URL(url, "http://node").searchParams;
    asked.push([query.get("every"), (Date.parse(query.get("to")) - Date.parse(query.get("from"))) / 60_000]);
    if (query.get("stream") === "slow" && query.get("every") === "1m") {
      return new Response(JSON.stringify({ title: "A parameter is wrong", detail: "no multiple", parameter: "every" }), { status: 400 });
    }
    const row = { site: "a", stream: "s", start_ms: Date.parse(query.get("from")), streams: 3 };
    return new Response(JSON.stringify({ aggregates: [row], next: null }));
  };
  const known = await lastHour({ stream: "s" });
  assert.deepEqual(asked.splice(0), [["1m", 60], ["1h", 1_440]]);
  assert.deepEqual([...known.before.values()], [3]);
  const newer = await lastHour({ stream: "s" }, known);
  assert.deepEqual(asked.splice(0), [["1m", 10]]);
  assert.equal(newer.rows.length, known.from === newer.from ? 2 : 1);
  const slow = await lastHour({ stream: "slow" });
  assert.deepEqual(asked.map(([every]) => every), ["1m", "5m", "1h"]);
  assert.equal(slow.step, 300_000);
});

test("a move is a share and a clause", () => {
  const move = { from: 2, to: 4, done_bytes: 5, total_bytes: 20 };
  assert.equal(moveShare(move), 0.25);
  assert.equal(moveShare({ ...move, total_bytes: null }), 0, "its size is not known yet");
  assert.equal(moveShare({ ...move, to: null }), 1, "nothing is copied");
  const shard = { shard: 7, leader: 1, replicas: [1, 2], move };
  assert.equal(words(shard), "Shard 7: gateway 1 leads, replicas on 2; one moves from 2 to 4");
  assert.equal(words({ ...shard, move: { ...move, from: null } }), "Shard 7: gateway 1 leads, replicas on 2; 4 receives one more");
  assert.equal(words({ ...shard, move: null }), "Shard 7: gateway 1 leads, replicas on 2");
});
