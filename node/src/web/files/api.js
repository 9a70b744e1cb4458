// What is asked of the node: requests with the token of this tab, the API's words when it says no, and events.

const TOKEN = "selvedge-token";

/** Why there is no answer, in the API's words. */
export class ApiError extends Error {
  constructor(status, title, detail, why = [], parameter = null) {
    super(detail);
    Object.assign(this, { status, title, why, parameter });
  }
}

let prompt = null;
let asking = null;

/** Says how a person is asked for a token: a function that gets the API's words and gives a token. */
export function onTokenNeeded(ask) {
  prompt = ask;
}

export const token = () => sessionStorage.getItem(TOKEN);

/** One question at a time, however many requests need it. */
function newToken(used, error) {
  if (token() !== used) return Promise.resolve();
  asking ??= prompt(error.message)
    .then((given) => sessionStorage.setItem(TOKEN, given))
    .finally(() => (asking = null));
  return asking;
}

/** An address of the API; parameters that are not said are left out. */
export function address(path, parameters = {}) {
  const said = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(said.map(([name, value]) => [name, String(value)])).toString();
  return query ? `${path}?${query}` : path;
}

/** A name where the API takes a pattern: its stars are no wildcards. */
export const exactly = (name) => name.replace(/[\\*]/g, (sign) => `\\${sign}`);

/** A name as a piece of a page's path. Browsers take `.` and `..` for steps in the path, also where they are percent-encoded. */
export const segment = (name) => (/^(~|\.{1,2}$)/.test(name) ? "~" : "") + encodeURIComponent(name);

/** The name that such a piece stands for. */
export const nameOf = (piece) => decodeURIComponent(piece).replace(/^~/, "");

async function refusal(answer) {
  const text = await answer.text();
  let body = {};
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy in between has its own words.
  }
  const title = body.title ?? `The node answers ${answer.status}`;
  const detail = body.detail ?? (text.slice(0, 300) || answer.statusText);
  return new ApiError(answer.status, title, detail, body.why ?? [], body.parameter ?? null);
}

async function ask(path, parameters, accept, signal) {
  for (;;) {
    const used = token();
    const headers = { Accept: accept };
    if (used) headers.Authorization = `Bearer ${used}`;
    let answer;
    try {
      answer = await fetch(address(path, parameters), { headers, signal, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The node can't be reached", "No answer came. Is it running, and is this machine on its network?");
    }
    if (answer.ok) return answer;
    const error = await refusal(answer);
    if (error.status !== 401 || !prompt) throw error;
    await newToken(used, error);
  }
}

/** What a path answers, as JSON. */
export async function get(path, parameters, signal) {
  const answer = await ask(path, parameters, "application/json", signal);
  return answer.json();
}

/** All pages of a list, at most so many. Says whether that was all. */
export async function pages(path, parameters, name, most, signal) {
  const rows = [];
  let after = null;
  for (let page = 0; page < most; page += 1) {
    const body = await get(path, { ...parameters, after }, signal);
    rows.push(...body[name]);
    after = body.next;
    if (!after) return { rows, whole: true };
  }
  return { rows, whole: false };
}

/** Takes server-sent events apart, as their text comes in pieces. */
export class EventParser {
  constructor() {
    this.rest = "";
  }

  /** The events that a piece completes. */
  feed(text) {
    this.rest += text;
    const blocks = this.rest.split(/\r?\n\r?\n/);
    this.rest = blocks.pop();
    return blocks.map((block) => {
      const event = { event: "message", data: "", id: null };
      const data = [];
      for (const line of block.split(/\r?\n/)) {
        const [, field, value] = /^([^:]*)(?:: ?(.*))?$/.exec(line) ?? [];
        if (field === "data") data.push(value ?? "");
        else if (field === "event" || field === "id") event[field] = value ?? "";
      }
      event.data = data.join("\n");
      return event;
    }).filter((event) => event.data !== "");
  }
}

/** The events of a path until it ends. By `fetch`, since an `EventSource` shows no token. */
export async function* events(path, parameters, signal, opened) {
  const answer = await ask(path, parameters, "text/event-stream", signal);
  opened?.();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const parser = new EventParser();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield* parser.feed(value);
  }
}
