// A site as a ring: one arc for each shard, coloured by its leader, its other replicas on the rings within.

import { s } from "./dom.js";

const SIZE = 360;
const MIDDLE = SIZE / 2;
const OUTER = 172;
const LED = 34;
const KEPT = 13;
const BETWEEN = 4;

/** How many colours there are; gateways beyond repeat them, with another pattern. Told apart also by people who see few. */
export const COLOURS = 8;

/** Where a gateway's colour is in the style sheet. */
export function colour(index) {
  return index < 0 ? "c-none" : `c-${index % COLOURS} p-${Math.floor(index / COLOURS) % 4}`;
}

/** A shard that nobody leads sticks out. */
const STICKS_OUT = 7;

/** How far out the bar of a shard's move reaches. */
const MOVES_OUT = 7;

/** With more shards there is no room for edges. */
const DENSE = 100;

const turn = (share) => share * 2 * Math.PI - Math.PI / 2;
const at = (radius, angle) => `${(MIDDLE + radius * Math.cos(angle)).toFixed(2)} ${(MIDDLE + radius * Math.sin(angle)).toFixed(2)}`;

/** A piece of a ring: of the whole turn, from one share to another. */
export function arcPath(inner, outer, from, to) {
  // A whole turn would end where it starts, and be nothing.
  const [a, b] = [turn(from), turn(Math.min(to, from + 0.99999))];
  const large = to - from > 0.5 ? 1 : 0;
  return `M${at(outer, a)}A${outer} ${outer} 0 ${large} 1 ${at(outer, b)}L${at(inner, b)}A${inner} ${inner} 0 ${large} 0 ${at(inner, a)}Z`;
}

/** What each shard's arcs are: who leads it outside, its other replicas within. */
export function arcs(shards) {
  return shards.map((shard, i) => ({
    shard: shard.shard,
    from: i / shards.length,
    to: (i + 1) / shards.length,
    leader: shard.leader,
    others: shard.replicas.filter((gateway) => gateway !== shard.leader),
  }));
}

/** How much of a move's data has arrived, from 0 to 1; taking a replica away moves none. */
export function moveShare(move) {
  if (move.to === null) return 1;
  return move.total_bytes > 0 ? move.done_bytes / move.total_bytes : 0;
}

/** In words. */
export function words(shard) {
  const leader = shard.leader === null ? "no leader" : `gateway ${shard.leader} leads`;
  const others = shard.replicas.filter((gateway) => gateway !== shard.leader);
  const move = shard.move;
  const ways = !move ? "" : move.to === null ? `; the one on ${move.from} goes` : move.from === null ? `; ${move.to} receives one more` : `; one moves from ${move.from} to ${move.to}`;
  return `Shard ${shard.shard}: ${leader}${others.length > 0 ? `, replicas on ${others.join(", ")}` : ""}${ways}`;
}

/** Draws the ring. `index` says which place among the colours a gateway has, `chosen` hears which shard is looked at. */
export function drawRing(shards, index, chosen) {
  const all = arcs(shards);
  const gap = Math.min(0.0012, 0.12 / Math.max(all.length, 1));
  const room = (2 * Math.PI * (OUTER - LED / 2)) / Math.max(all.length, 1);
  const groups = all.map((arc, i) => {
    const [from, to] = all.length === 1 ? [0, 1] : [arc.from + gap, arc.to - gap];
    const inner = OUTER - LED;
    const kept = arc.others.map((gateway, k) => {
      const outer = inner - BETWEEN - k * (KEPT + 2);
      return outer - KEPT < 40 ? null : s("path", { class: `kept ${colour(index(gateway))}`, "data-gateway": gateway, d: arcPath(outer - KEPT, outer, from, to) });
    });
    const angle = turn((arc.from + arc.to) / 2);
    const [x, y] = at(OUTER - LED / 2, angle).split(" ");
    const label = room >= 13 && s("text", { x, y, class: `on ${colour(index(arc.leader))}` }, arc.leader === null ? "?" : String(arc.leader));
    const move = shards[i].move;
    // At least a sliver, so that a move that has only begun is seen.
    const moved = move && from + (to - from) * Math.max(0.15, moveShare(move));
    return s("g", { class: "shard", "data-shard": arc.shard, click: () => chosen(i, true), pointerenter: () => chosen(i, false) },
      s("path", { class: `led ${colour(arc.leader === null ? -1 : index(arc.leader))}`, "data-gateway": arc.leader, d: arcPath(inner, arc.leader === null ? OUTER + STICKS_OUT : OUTER, from, to) }),
      move && s("path", { class: "moving-bed", d: arcPath(OUTER + 2, OUTER + MOVES_OUT, from, to) }),
      move && s("path", { class: `moving ${colour(move.to === null ? -1 : index(move.to))}`, d: arcPath(OUTER + 2, OUTER + MOVES_OUT, from, moved) }),
      label, kept, s("title", null, words(shards[i])));
  });
  const led = shards.filter((shard) => shard.leader !== null).length;
  return s("svg", { class: all.length > DENSE ? "ring dense" : "ring", viewBox: `0 0 ${SIZE} ${SIZE}`, role: "img", tabindex: "0", "aria-label": `Ring of ${shards.length} shards, ${led} of which have a leader. Arrow keys walk through them.` },
    groups,
    s("text", { x: MIDDLE, y: MIDDLE - 6, class: "middle" }, `${led} / ${shards.length}`),
    s("text", { x: MIDDLE, y: MIDDLE + 14, class: "middle small" }, "shards led"));
}
