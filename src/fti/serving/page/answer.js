// An answer for people: what is predicted, what drove it, and what it was made of.

import { el } from "./dom.js";
import { driversOf } from "./drivers.js";
import { counted, featureName, human, moment, old, outcome, percent, titled, value } from "./words.js";

/**
 * `answer` is of POST /explain or /predict, `model` the service's account of its model, `baseRate` the share of all cases
 * that come out so, or null; `asked` the JSON that was sent, `why` there is no explanation. Gives the nodes to show, and
 * one sentence that says it all.
 */
export function answerOf(answer, { model, baseRate, asked, requestId, why }) {
  const label = model.contract.interface.label;
  const said = "probability" in answer ? likely(answer, label, baseRate) : predicted(answer, label);
  const explained = answer.explanation
    ? driversOf(answer.explanation, model.meanings ?? {}, outcome(label), answer.unit)
    : why && el("section", {}, el("h3", {}, "What drove it"), el("p", { class: "quiet" }, why));
  return {
    sentence: said.sentence,
    nodes: [said.nodes, warningsOf(answer), explained, madeOf(answer, model), small(answer, asked, requestId)],
  };
}

/** One number to compare with: where the explanation starts, a typical case; without one, the share of all cases. */
function likely({ probability, explanation }, label, baseRate) {
  const what = outcome(label);
  const usual = explanation?.base_probability ?? baseRate;
  const typical = explanation ? "in a typical case" : "usual";
  const compared = usual ? `${compare(probability / usual)} than ${typical} (${percent(usual)}).`.replace("as likely than", "as likely as") : "";
  const counts = `Of 100 cases like this one, about ${Math.round(probability * 100)} come out “${what}”.`;
  return {
    sentence: `${percent(probability)} likely: ${what}. ${compared}`,
    nodes: [
      el("p", { class: "big" }, el("strong", {}, percent(probability)), ` likely: ${what}`),
      meter(probability, usual, explanation ? "typical" : "usual"),
      el("p", { class: "lead" }, [counts, compared].filter(Boolean).join(" ")),
    ],
  };
}

function predicted(answer, label) {
  const unit = answer.unit ?? "";
  const said = value(answer.prediction, unit);
  const what = human(label) === unit ? "" : ` ${human(label)}`; // 80 people, not 80 people people
  const usual = answer.explanation?.base;
  const compared = usual === undefined ? "" : `In a typical case it says ${value(usual, unit)}.`;
  return {
    sentence: `${titled(human(label))}: ${said}. ${compared}`,
    nodes: [el("p", { class: "big" }, el("strong", {}, said), what), el("p", { class: "lead" }, compared)],
  };
}

const compare = (ratio) => {
  if (ratio < 0.5) return "Much less likely";
  if (ratio < 0.8) return "Less likely";
  if (ratio <= 1.25) return "About as likely";
  return ratio <= 2 ? "More likely" : "Much more likely";
};

/** A bar from never to always, with a mark where `usual` is; the words beside it say the same. */
function meter(share, usual, name) {
  const bar = el("div", { class: "bar" });
  bar.style.width = `${share * 100}%`;
  const marks = [bar];
  if (usual) {
    const mark = el("div", { class: "usual" }, el("span", {}, `${name} ${percent(usual)}`));
    mark.style.left = `${usual * 100}%`;
    if (usual > 0.75) mark.classList.add("right");
    marks.push(mark);
  }
  return el("div", { class: usual ? "meter marked" : "meter", "aria-hidden": "true" }, marks);
}

function warningsOf({ warnings }) {
  if (!warnings.length) return null;
  return el(
    "section", { class: "notice warn" },
    el("h3", {}, `Not quite as usual: ${counted(warnings.length, "warning")}`),
    el("ul", {}, warnings.map((one) => el("li", {}, one))),
  );
}

/** Every feature with its value, grouped by where it came from; what is missing or too old comes first, and open. */
function madeOf(answer, model) {
  if (!answer.features) return null;
  const views = new Map();
  for (const [name, feature] of Object.entries(answer.features)) {
    views.set(feature.source, [...(views.get(feature.source) ?? []), { name, ...feature }]);
  }
  const computed = new Set(model.contract.interface.on_demand_views.map((view) => view.name));
  const told = [...views].map(([view, features]) => ({ view, features, ...stateOf(view, features, answer, computed) }));
  const order = ["missing", "stale", "fresh", "computed", "request"];
  told.sort((one, other) => order.indexOf(one.state) - order.indexOf(other.state));
  return el(
    "section", {},
    el("h3", {}, "What it was made of"),
    el("p", { class: "quiet" },
      `${counted(Object.keys(answer.features).length, "feature")} of feature service `, el("code", {}, answer.feature_service),
      `, each as it was known at ${moment(answer.as_of)}.`),
    told.map((one) => viewOf(one, model.meanings ?? {})),
  );
}

function stateOf(view, features, answer, computed) {
  if (answer.missing.includes(view)) return { state: "missing", age: "no row" };
  if (answer.stale.includes(view)) return { state: "stale", age: "too old, not used" };
  if (view === "request") return { state: "request", age: "as asked" };
  if (computed.has(view)) return { state: "computed", age: "computed for this request" };
  return { state: "fresh", age: old(features[0].age_seconds) };
}

function viewOf({ view, features, state, age }, meanings) {
  const bad = state === "missing" || state === "stale";
  const name = view === "request" ? "The request itself" : titled(human(view));
  return el(
    "details", { class: "view", open: bad, "data-key": view },
    el("summary", {},
      el("span", { class: "name" }, name),
      el("span", { class: `chip ${bad ? "warn" : "plain"}` }, bad ? `${state}: ${age}` : age),
      el("span", { class: "quiet" }, counted(features.length, "feature"))),
    el("table", { class: "features" },
      el("caption", { class: "hidden" }, `Features of ${human(view)}`),
      el("thead", { class: "hidden" }, el("tr", {}, el("th", { scope: "col" }, "Feature"), el("th", { scope: "col" }, "Value"))),
      el("tbody", {}, features.map((one) => featureRow(one, meanings[one.name] ?? {})))),
  );
}

function featureRow({ name, value: found }, { description, unit }) {
  return el(
    "tr", { class: found === null ? "unknown" : null },
    el("th", { scope: "row" }, titled(featureName(name)), description && el("span", { class: "hint" }, description), el("code", {}, name)),
    el("td", {}, value(found, unit)),
  );
}

/** Who said it, and how to ask the same from elsewhere. */
function small(answer, asked, requestId) {
  const curl = `curl -s ${new URL("predict", document.baseURI).href} -H 'Content-Type: application/json' -d '${asked.replaceAll("'", "'\\''")}'`;
  const facts = { Model: `${answer.model.name}, version ${answer.model.version}`, Features: answer.feature_service, "As of": moment(answer.as_of), "Request id": requestId };
  return el(
    "footer", {},
    el("dl", {}, Object.entries(facts).map(([name, fact]) => el("div", {}, el("dt", {}, name), el("dd", {}, fact)))),
    el("details", { "data-key": "curl" }, el("summary", {}, "The same from a terminal"), el("pre", { tabindex: 0 }, curl)),
  );
}

/** What to show when there is no answer. */
export function failureOf(error) {
  const what = { 0: "No answer", 401: "A key is needed", 403: "Not for this key", 429: "Too busy", 503: "Not available", 504: "Too slow" };
  return el("div", { class: "notice bad" }, el("h3", {}, what[error.status] ?? "This cannot be predicted"), el("p", {}, error.message));
}

