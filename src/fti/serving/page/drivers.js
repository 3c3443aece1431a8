// What drove an answer: how far each feature moved it, as bars in a table that reads as well without them.

import { el } from "./dom.js";
import { counted, featureName, human, number, percent, signed, titled, value } from "./words.js";

const SHOWN = 10;

/** `what` is the outcome that a probability is of; `unit` is that of a quantity, if there is one. */
export function driversOf(explanation, meanings, what, unit) {
  const all = explanation.contributions;
  const odds = explanation.scale === "log-odds";
  const rest = all.slice(SHOWN);
  const moved = rest.reduce((sum, one) => sum + one.contribution, 0);
  const widest = Math.max(1e-12, Math.abs(moved), ...all.slice(0, SHOWN).map((one) => Math.abs(one.contribution)));
  const show = odds ? signed : (amount) => (amount > 0 ? `+${number(amount)}` : number(amount));
  const rows = all.slice(0, SHOWN).map((one) => row(
    [
      `${titled(featureName(one.feature))} `,
      el("span", { class: "given" }, value(one.value, meanings[one.feature]?.unit)),
      el("span", { class: "hint" }, meanings[one.feature]?.description ?? `From ${human(one.source)}.`),
    ],
    one.contribution, widest, show,
  ));
  if (rest.length) rows.push(row(`The other ${counted(rest.length, "feature")}, together`, moved, widest, show, "rest"));
  return el(
    "section", {},
    el("h3", {}, "What drove it"),
    el("p", { class: "quiet" }, sentence(explanation, odds, what, unit)),
    el("table", { class: "drivers" },
      el("caption", { class: "hidden" }, `How far each feature moved the answer, in ${odds ? "log-odds" : unit || "the answer's own unit"}`),
      el("thead", {}, el("tr", {},
        el("th", { scope: "col" }, "Feature and its value"),
        el("th", { scope: "col", class: "sides" }, el("span", { class: "lower" }, odds ? "less likely" : "lower"), el("span", { class: "raise" }, odds ? "more likely" : "higher")),
        el("th", { scope: "col", class: "amount" }, "Moved by"))),
      el("tbody", {}, rows)),
    el("p", { class: "hint" }, `How: ${explanation.method}.`),
  );
}

function sentence({ base, output, base_probability }, odds, what, unit) {
  if (!odds) return `A typical case stands at ${value(base, unit)}. The bars lead from there to this answer, ${value(output, unit)}, and add up.`;
  const answer = 1 / (1 + Math.exp(-output));
  return `A typical case stands at ${percent(base_probability)}. The bars lead from there to this answer, ${percent(answer)}. `
    + `They are log-odds, which add up: +0.7 doubles the odds of “${what}”, −0.7 halves them.`;
}

function row(name, moved, widest, show, kind = null) {
  const bar = el("div", { class: moved < 0 ? "lower" : "raise" });
  bar.style.width = `${Math.max(0.8, (Math.abs(moved) / widest) * 50)}%`;
  return el(
    "tr", { class: kind },
    el("th", { scope: "row" }, name),
    el("td", { class: "bars", "aria-hidden": "true" }, bar),
    el("td", { class: "amount" }, show(moved)),
  );
}
