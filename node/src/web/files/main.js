// Starts the page that the address names.

import { nameOf, onTokenNeeded } from "./api.js";
import { h, put, trouble } from "./dom.js";

const PAGES = [
  [/^\/$/, "overview", "overview"],
  [/^\/sites\/([^/]+)$/, "site", "overview"],
  [/^\/devices$/, "devices", "devices"],
  [/^\/devices\/([^/]+)\/([^/]+)$/, "device", "devices"],
  [/^\/streams\/([^/]+)\/([^/]+)\/([^/]+)$/, "stream", "devices"],
];

function themeButton() {
  const button = document.getElementById("theme");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  const show = () => {
    button.textContent = dark() ? "☀ Light" : "☾ Dark";
    button.setAttribute("aria-label", dark() ? "Switch to light colours" : "Switch to dark colours");
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("selvedge-theme", root.dataset.theme);
    } catch {
      // It holds for this page then.
    }
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

function askForToken(words) {
  return new Promise((resolve) => {
    const input = h("input", { type: "password", id: "token", required: true, autocomplete: "off", spellcheck: "false" });
    const form = h("form", { method: "dialog" },
      h("h2", { id: "token-title" }, "This node requires a token"),
      h("p", null, `It says: ${words}.`),
      h("p", { class: "muted" }, "The setting http.tokens of the node lists who may read. The token stays in this tab and goes to this node alone."),
      h("label", { for: "token" }, "Token"), input,
      h("button", { class: "main" }, "Use it"));
    const dialog = h("dialog", { "aria-labelledby": "token-title" }, form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener("submit", () => {
      resolve(input.value.trim());
      dialog.remove();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

async function start() {
  themeButton();
  onTokenNeeded(askForToken);
  const main = document.getElementById("main");
  for (const [pattern, name, under] of PAGES) {
    const match = pattern.exec(location.pathname);
    if (!match) continue;
    document.querySelector(`[data-page=${under}]`)?.setAttribute("aria-current", name === under ? "page" : "true");
    try {
      const names = match.slice(1).map(nameOf);
      const page = await import(`/web/pages/${name}.js`);
      await page.show(main, ...names);
    } catch (error) {
      put(main, trouble(error));
    }
  }
}

start();
