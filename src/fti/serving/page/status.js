// How the service goes, from GET /status: versions, freshness, traffic, what is watched, and what happened.

import { barChart, lineChart } from "./chart.js";
import { el } from "./dom.js";
import { counted, human, moment, number, percent, span, titled } from "./words.js";

const FIRST = 6; // charts of a monitor that are shown at once
const EVENTS = 20;
const KINDS = { fresh: "good", healthy: "good", stale: "bad", empty: "bad", breach: "bad", investigate: "warn" };

export function statusOf(status) {
  return [
    problems(status.problems ?? []),
    section("Versions", "versions", versions(status.versions ?? {}, status.model)),
    section("Feature views", "views", views(status.views ?? [])),
    section("Traffic", "traffic", traffic(status.traffic)),
    ...monitors(status.monitors ?? []),
    section("What happened", "events", events(status.events ?? [])),
    section("Elsewhere", "links", links(status.links ?? [])),
    el("p", { class: "hint" }, `As of ${moment(status.now)}; renewed every 5 seconds.`),
  ];
}

/** A card; `wide` says over how many of three columns it goes, where there are as many. */
const section = (title, key, content, wide = 3) => content
  && el("section", { class: `card status-${key} wide-${wide}`, "data-key": key, "aria-labelledby": `status-${key}` }, el("h2", { id: `status-${key}` }, title), content);

function problems(found) {
  if (!found.length) return null;
  return el(
    "section", { class: "notice bad", "data-key": "problems", "aria-label": "Problems" },
    el("h2", {}, `${counted(found.length, "thing")} to look at`), el("ul", {}, found.map((one) => el("li", {}, one))),
  );
}

const chip = (state) => el("span", { class: `chip ${KINDS[state] ?? "plain"}` }, human(state));

function versions(known, model) {
  const roles = ["champion", "previous", "challenger"];
  return el("div", { class: "tiles" }, roles.map((role) => version(role, known[role], model)));
}

function version(role, found, model) {
  const serves = found && model && String(found.version) === String(model.version);
  const heading = el("h3", {}, titled(role), serves && el("span", { class: "chip good" }, "serves now"));
  if (!found) return el("div", { class: "tile" }, heading, el("p", { class: "quiet" }, "none"));
  const facts = [["features", found.feature_service], ["registered", moment(found.registered_at)]]
    .concat(Object.entries(found.scores ?? {}).map(([name, value]) => [human(name), number(value)]))
    .concat(found.decision ? [["gate", human(found.decision)]] : []);
  return el(
    "div", { class: "tile" }, heading, el("p", { class: "figure" }, `version ${found.version}`),
    el("dl", {}, facts.map(([name, fact]) => el("div", {}, el("dt", {}, name), el("dd", {}, fact)))),
    found.reasons && el("p", { class: "hint" }, found.reasons),
  );
}

function views(found) {
  if (!found.length) return null;
  const rows = found.map((view) => el(
    "tr", {},
    el("th", { scope: "row" }, titled(human(view.name))),
    el("td", {}, chip(view.state)),
    el("td", {}, view.newest ? span(view.age_seconds) : "–", view.newest && el("span", { class: "hint" }, moment(view.newest))),
    el("td", {}, view.ttl_seconds ? span(view.ttl_seconds) : "ever"),
  ));
  return [
    el("p", { class: "quiet" }, "How old the newest row of each feature view is. A row that is older than what it is good for is not used."
      + (found.some((one) => one.state === "unknown") ? " It is unknown until a prediction is logged, or the monitors have run." : "")),
    el("table", { class: "listed" },
      el("thead", {}, el("tr", {}, ["View", "State", "Age of the newest row", "Good for"].map((one) => el("th", { scope: "col" }, one)))),
      el("tbody", {}, rows)),
  ];
}

function traffic(found) {
  if (!found) return null;
  const points = (found.by_hour ?? []).map(({ at, rows }) => ({ at, value: rows }));
  const latency = found.latency_ms;
  const facts = [[`requests in ${found.hours} hours`, number(found.requests)]]
    .concat(latency ? ["p50", "p95", "p99"].map((name) => [`${name} latency`, `${number(latency[name])} ms`]) : []);
  return [
    el("dl", { class: "figures" }, facts.map(([name, fact]) => el("div", {}, el("dt", {}, name), el("dd", {}, fact)))),
    points.some((one) => one.value) ? barChart(points, "Predictions by hour") : el("p", { class: "quiet" }, "No prediction was logged in that time."),
  ];
}

function monitors(found) {
  const groups = Map.groupBy ? Map.groupBy(found, (one) => one.monitor) : grouped(found);
  return [...groups].map(([monitor, all]) => {
    const bad = (one) => KINDS[one.verdict] === "bad";
    const sorted = [...all].sort((one, other) => bad(other) - bad(one));
    const [first, rest] = [sorted.slice(0, FIRST), sorted.slice(FIRST)];
    return section(titled(human(monitor)), `monitor-${monitor}`, [
      el("div", { class: "tiles" }, first.map(measured)),
      rest.length > 0 && el("details", { "data-key": `more ${monitor}` }, el("summary", {}, `${rest.length} more`),
        el("div", { class: "tiles" }, rest.map(measured))),
    ], Math.min(first.length, 3));
  });
}

function grouped(found) {
  const groups = new Map();
  for (const one of found) groups.set(one.monitor, [...(groups.get(one.monitor) ?? []), one]);
  return groups;
}

function measured({ monitor, subject, metric, verdict, value, as_of: asOf, details, history }) {
  const points = (history ?? []).map((one) => ({ at: one.as_of, value: one.value, low: one.low, high: one.high }));
  const show = metric.endsWith("_share") ? percent : number;
  return el(
    "div", { class: "tile", "data-key": `${subject} ${metric}` },
    el("h3", {}, titled(human(metric)), verdict && chip(verdict)),
    el("p", { class: "hint" }, human(subject)),
    el("p", { class: "figure" }, Number.isFinite(value) ? show(value) : "not measured"),
    lineChart(points, `${titled(human(monitor))}, ${human(metric)} of ${human(subject)}`, show),
    details && el("p", { class: "hint" }, details),
    el("p", { class: "hint" }, `as of ${moment(asOf)}`),
  );
}

function events(found) {
  if (!found.length) return null;
  const newest = [...found].sort((one, other) => Date.parse(other.at) - Date.parse(one.at)).slice(0, EVENTS);
  return el("ol", { class: "events" }, newest.map(({ at, what }) => el("li", {}, el("time", { datetime: at }, moment(at)), el("span", {}, what))));
}

function links(found) {
  // Only addresses that a browser opens: never a script.
  const safe = found.filter(({ url }) => /^https?:$/.test(new URL(url, document.baseURI).protocol));
  if (!safe.length) return null;
  return el("ul", { class: "links" }, safe.map(({ title, url }) => el("li", {}, el("a", { href: url, rel: "noreferrer" }, title))));
}
