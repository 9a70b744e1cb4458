// Elements are made here, and only here: data becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element of HTML. A function among the attributes listens to the event of that name. */
export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** An element of SVG. */
export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/** Puts other children into an element. */
export function put(element, ...children) {
  element.replaceChildren();
  return fill(element, null, children);
}

/** Sets the document's title and heads the page. */
export function head(title, ...beside) {
  document.title = `${title} · Selvedge`;
  return h("div", { class: "head" }, h("h1", null, title), ...beside);
}

/** Where one is: links upwards. */
export function trail(...steps) {
  const items = steps.map(([text, href]) => h("li", null, href ? h("a", { href }, text) : h("span", { "aria-current": "page" }, text)));
  return h("nav", { class: "trail", "aria-label": "Where you are" }, h("ol", null, items));
}

/** That something is wrong, in the API's words, and what could be done. */
export function trouble(error) {
  const why = (error.why ?? []).map((text) => h("li", null, text));
  return h("div", { class: "panel bad", role: "alert" },
    h("h2", null, error.title ?? "This did not work"),
    h("p", null, error.message),
    why.length > 0 && h("ul", null, why));
}

/** That there is nothing, and what would change it. */
export function empty(title, ...words) {
  return h("div", { class: "panel empty" }, h("h2", null, title), words.map((text) => h("p", null, text)));
}

/** Does something now and then again, while the page is seen. Ends with the page. */
export function repeat(everyMs, work) {
  let running = false;
  const run = async () => {
    if (running || document.hidden) return;
    running = true;
    try {
      await work();
    } finally {
      running = false;
    }
  };
  setInterval(run, everyMs);
  document.addEventListener("visibilitychange", run);
  return run();
}
