// Requests that were made or are due, to start from one: a list that is filtered by what is typed.

import { el } from "./dom.js";
import { counted, isMoment, minute } from "./words.js";

const MOST_SHOWN = 100;

/** Fills `holder`; `pick` is called with the request that was chosen. */
export function showPicker(holder, requests, fields, pick) {
  holder.hidden = requests.length === 0;
  if (holder.hidden) return;
  const entries = requests.map((one, place) => entryOf(one, place, fields));
  const list = el("ul", { id: "picker-list", role: "listbox", "aria-label": "Real ones", tabindex: -1 });
  const found = el("p", { class: "hint", "aria-live": "polite" });
  const keys = el("p", { class: "hidden", id: "picker-keys" }, "Arrow keys move through the list; Enter fills the form and predicts.");
  const search = el("input", {
    id: "picker-search", type: "search", role: "combobox", autocomplete: "off", spellcheck: "false",
    placeholder: "filter by anything in it", "aria-describedby": keys.id,
    "aria-controls": list.id, "aria-expanded": "true", "aria-autocomplete": "list",
  });
  let shown = [], active = -1;

  const activate = (place) => {
    active = Math.max(-1, Math.min(place, Math.min(shown.length, MOST_SHOWN) - 1));
    list.querySelector(".active")?.classList.remove("active");
    const option = list.children[active];
    if (option) {
      option.classList.add("active");
      option.scrollIntoView({ block: "nearest" });
      search.setAttribute("aria-activedescendant", option.id);
    } else search.removeAttribute("aria-activedescendant");
  };
  const choose = (entry) => {
    list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    list.querySelector(`#${entry.id}`).setAttribute("aria-selected", "true");
    pick(entry.request);
  };
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = entries.filter((entry) => words.every((word) => entry.text.includes(word)));
    list.replaceChildren(...shown.slice(0, MOST_SHOWN).map((entry) => option(entry, () => choose(entry))));
    found.textContent = words.length ? `${counted(shown.length, "request")} of ${entries.length}` : "";
    activate(-1);
  };
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    const moves = { ArrowDown: active + 1, ArrowUp: active - 1 };
    if (event.key in moves) {
      event.preventDefault();
      activate(moves[event.key]);
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (shown.length) choose(shown[Math.max(active, 0)]);
    }
  });
  holder.replaceChildren(
    el("label", { for: search.id }, "Pick a real one"), keys, search, found, list, el("p", { class: "or" }, "or say it yourself"),
  );
  filter();
}

function option(entry, choose) {
  return el(
    "li", { id: entry.id, role: "option", "aria-selected": "false", title: entry.about, on: { click: choose } },
    el("span", {}, entry.title), el("span", { class: "when" }, entry.when),
  );
}

/** What one shows of itself, its earliest moment among it, and `text`, all that it can be found by. */
function entryOf({ request, as_of, role }, place, fields) {
  const given = fields.filter((field) => field.name !== "as_of" && (request[field.name] ?? null) !== null);
  const words = given.map((field) => (isMoment(request[field.name]) ? minute(request[field.name]) : String(request[field.name])));
  const others = words.filter((_, place) => !isMoment(request[given[place].name]));
  const moments = words.filter((_, place) => isMoment(request[given[place].name])).sort();
  return {
    id: `request-${place}`,
    request: { as_of, ...request },
    title: others.join(" · ") || "one",
    when: moments[0] ?? minute(as_of),
    about: given.map((field, place) => `${field.label}: ${words[place]}`).join("\n"),
    text: [...words, others.join(" "), role ?? ""].join(" ").toLowerCase(),
  };
}
