// Draws openapi.json: each path with its parameters, answers and an example, and a form that asks it.
"use strict";

// Answers are shown up to so many characters, streams up to so many events.
const SHOWN_CHARS = 200000;
const SHOWN_EVENTS = 50;

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// Text in which `...` is code and an empty line begins a paragraph.
function prose(text) {
  return (text || "").split("\n\n").map((paragraph) =>
    make("p", {}, ...inline(paragraph)));
}

function inline(text) {
  return (text || "").split("`").map((piece, at) => (at % 2 ? make("code", {}, piece) : piece));
}

function resolve(spec, value) {
  if (!value || !value.$ref) return value;
  return value.$ref.slice(2).split("/").reduce((at, key) => at[key], spec);
}

function typeOf(spec, schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(", ");
  const types = [].concat(schema.type || "any").map((type) =>
    type === "array" ? typeOf(spec, schema.items) + "[]" : type);
  return types.join(" or ");
}

// A table of the fields of an answer, objects within it under their names.
function fields(spec, schema, prefix, depth) {
  const rows = [];
  schema = resolve(spec, schema);
  for (const [name, given] of Object.entries((schema && schema.properties) || {})) {
    const inner = resolve(spec, given);
    const full = prefix + name;
    rows.push(make("tr", {},
      make("td", { class: "name" }, make("code", {}, full)),
      make("td", {}, typeOf(spec, given)),
      make("td", {}, ...inline(given.description || inner.description))));
    const below = inner.type === "array" ? inner.items : inner;
    if (depth > 0 && below) {
      rows.push(...fields(spec, below, full + (inner.type === "array" ? "[]." : "."), depth - 1));
    }
  }
  return rows;
}

function table(heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function input(parameter) {
  const schema = parameter.schema || {};
  const label = "value of " + parameter.name;
  if (schema.enum) {
    return make("select", { name: parameter.name, "aria-label": label },
      make("option", { value: "" }, ""), ...schema.enum.map((value) => make("option", { value }, value)));
  }
  const placeholder = parameter.example === undefined ? "" : "such as " + parameter.example;
  return make("input", { name: parameter.name, placeholder, "aria-label": label, autocomplete: "off", spellcheck: "false" });
}

async function ask(method, path, form, body, show) {
  const query = new URLSearchParams();
  const headers = {};
  let where = path;
  for (const field of form.querySelectorAll("[name]")) {
    if (!field.value) continue;
    if (field.dataset.in === "path") where = where.replace("{" + field.name + "}", encodeURIComponent(field.value));
    else if (field.dataset.in === "header") headers[field.name] = field.value;
    else query.append(field.name, field.value);
  }
  const url = "." + where + (query.size ? "?" + query : "");
  const given = Object.entries(headers); // before the token, which is not shown
  const token = document.getElementById("token").value.trim();
  if (token) headers.Authorization = "Bearer " + token;
  if (body !== null) headers["Content-Type"] = "application/json";
  const shell = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
  const curl = "curl " + (method === "GET" ? "" : "-X " + method + " ") +
    given.map(([name, value]) => "-H " + shell(name + ": " + value) + " ").join("") +
    (body === null ? "" : "-H 'Content-Type: application/json' -d " + shell(body) + " ") +
    (token ? "-H \"Authorization: Bearer $TOKEN\" " : "") + shell(new URL(url, location.href).href);
  const stop = new AbortController();
  show(make("h4", {}, "Asked"), make("pre", {}, curl));
  try {
    const answer = await fetch(url, { method, headers, body: body === null ? undefined : body, signal: stop.signal, redirect: "error" });
    const status = make("p", { class: "status" + (answer.ok ? "" : " bad") },
      answer.status + " " + answer.statusText + "  " + (answer.headers.get("content-type") || ""));
    const out = make("pre", { tabindex: "0" });
    if ((answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
      const end = make("button", { class: "second", type: "button", onclick: () => stop.abort() }, "Stop");
      show(make("h4", {}, "Asked"), make("pre", {}, curl), status, end, out);
      await follow(answer, out, stop);
      return;
    }
    let text = await answer.text();
    if ((answer.headers.get("content-type") || "").includes("json")) {
      try { text = JSON.stringify(JSON.parse(text), null, 2); } catch (error) { /* shown as it is */ }
    }
    out.textContent = text.length > SHOWN_CHARS ? text.slice(0, SHOWN_CHARS) + "\n... and more" : text;
    show(make("h4", {}, "Asked"), make("pre", {}, curl), status, out);
  } catch (error) {
    if (error.name !== "AbortError") show(make("pre", {}, curl), make("p", { class: "status bad" }, String(error)));
  }
}

async function follow(answer, out, stop) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let events = [], rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const all = (rest + value).split("\n\n");
    rest = all.pop();
    events = events.concat(all).slice(-SHOWN_EVENTS);
    out.textContent = events.join("\n\n");
    if (rest.length > SHOWN_CHARS) stop.abort();
  }
}

function operation(spec, path, method, one) {
  const id = method + "-" + one.operationId;
  const scopes = (one.security || []).flatMap((all) => Object.values(all).flat());
  const parameters = (one.parameters || []).map((parameter) => resolve(spec, parameter));
  const inputs = parameters.map((parameter) => {
    const field = input(parameter);
    field.dataset.in = parameter.in;
    return make("tr", {},
      make("td", { class: "name" }, make("code", {}, parameter.name), parameter.required ? " *" : ""),
      make("td", {}, ...inline(parameter.description)),
      make("td", {}, field));
  });
  const form = make("form", {});
  if (inputs.length) form.append(make("h4", {}, "Parameters"), table(["Name", "Meaning", "Try"], inputs));
  let body = null;
  if (one.requestBody) {
    const media = one.requestBody.content["application/json"] || {};
    body = make("textarea", { "aria-label": "body", spellcheck: "false" });
    body.value = JSON.stringify(media.example || {}, null, 2);
    form.append(make("h4", {}, "Body"), ...prose(one.requestBody.description), body);
  }
  const shown = make("div", { "aria-live": "polite" });
  const show = (...parts) => shown.replaceChildren(...parts);
  form.append(make("button", { type: "submit" }, "Ask"), make("button", { type: "button", class: "second", onclick: () => show() }, "Clear"), shown);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask(method.toUpperCase(), path, form, body && body.value, show);
  });
  const answers = [];
  for (const [status, given] of Object.entries(one.responses)) {
    const answer = resolve(spec, given);
    for (const [media, content] of Object.entries(answer.content || {})) {
      const description = content.schema && content.schema.description;
      answers.push(make("tr", {}, make("td", { class: "name" }, status), make("td", {}, make("code", {}, media)),
        make("td", {}, ...inline(description || answer.description))));
    }
  }
  const json = ((one.responses["200"] || {}).content || {})["application/json"];
  const inside = json ? fields(spec, json.schema, "", 3) : [];
  return make("details", { class: "path", id },
    make("summary", {},
      make("span", { class: "method " + method }, method.toUpperCase()),
      make("code", { class: "where" }, path), make("span", {}, one.summary || ""),
      make("span", { class: "scope" }, scopes.length ? "scope " + scopes.join(", ") : "open")),
    make("div", {}, ...prose(one.description), form, make("h4", {}, "Answers"), table(["Status", "Form", ""], answers),
      ...(inside.length ? [make("h4", {}, "Fields of the answer"), table(["Field", "Type", "Meaning"], inside)] : []),
      ...(json && json.example ? [make("h4", {}, "For example"), make("pre", {}, JSON.stringify(json.example, null, 2))] : [])));
}

function open(target) {
  const element = target && document.getElementById(target);
  if (element && element.tagName === "DETAILS") element.open = true;
  if (element) element.scrollIntoView();
}

async function draw() {
  const spec = await (await fetch("openapi.json")).json();
  document.title = spec.info.title + ": API";
  document.getElementById("title").textContent = spec.info.title;
  document.getElementById("version").textContent = spec.info.version;
  document.getElementById("about").append(...prose(spec.info.description),
    make("p", {}, "As a file: ", make("a", { href: "openapi.json" }, "openapi.json")));
  const contents = document.getElementById("contents"), paths = document.getElementById("paths");
  for (const tag of spec.tags) {
    const all = Object.entries(spec.paths).filter(([path]) => !path.startsWith("/docs/")).flatMap(([path, methods]) =>
      Object.entries(methods).filter(([, one]) => one.tags && one.tags.includes(tag.name)).map(([method, one]) => [path, method, one]));
    if (!all.length) continue;
    contents.append(make("h2", {}, tag.name));
    paths.append(make("h2", {}, tag.name), ...prose(tag.description));
    for (const [path, method, one] of all) {
      contents.append(make("a", { href: "#" + method + "-" + one.operationId }, path));
      paths.append(operation(spec, path, method, one));
    }
  }
  const problems = make("dl", {});
  for (const one of spec["x-problems"]) {
    problems.append(make("dt", { id: "problem-" + one.slug }, one.status + " ", make("code", {}, one.slug), " " + one.title),
      make("dd", {}, ...inline(one.meaning)));
  }
  contents.append(make("h2", {}, "problems"), make("a", { href: "#problems" }, "Types of problems"));
  document.getElementById("problems").append(make("h2", {}, "problems"), problems);
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  open(location.hash.slice(1));
}

draw().catch((error) => {
  document.getElementById("about").append(make("p", { class: "status bad" }, "This page can't be drawn: " + error));
});
