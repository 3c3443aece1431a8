// Small charts in SVG, stretched to their place: lines with a band, and bars; each beside words that say the same.

import { el, svg } from "./dom.js";
import { counted, minute, number } from "./words.js";

const [WIDTH, HEIGHT, EDGE] = [300, 64, 5];

/** A line of `points` ({ at, value, low, high }), with the band between low and high where they are known. */
export function lineChart(points, name, show = number) {
  const known = points.filter((one) => Number.isFinite(one.value));
  if (!known.length) return el("p", { class: "quiet" }, "No measurement yet.");
  const levels = points.flatMap((one) => [one.value, one.low, one.high]).filter(Number.isFinite);
  const [least, most] = [Math.min(...levels), Math.max(...levels)];
  const x = placing(points.map((one) => Date.parse(one.at)), EDGE, WIDTH - EDGE);
  const y = placing([least, most], HEIGHT - EDGE, EDGE);
  const at = (one, level) => `${x(Date.parse(one.at)).toFixed(1)} ${y(level).toFixed(1)}`;
  const path = (ones, level) => ones.map((one, place) => `${place ? "L" : "M"}${at(one, level(one))}`).join("");
  const [low, high] = ["low", "high"].map((bound) => points.filter((one) => Number.isFinite(one[bound])));
  const band = low.length && high.length
    ? svg("path", { class: "band", d: `${path(low, (one) => one.low)}${path([...high].reverse(), (one) => one.high).replace("M", "L")}Z` })
    : [low, high].map((ones, place) => ones.length && svg("path", { class: "limit", d: path(ones, (one) => (place ? one.high : one.low)) }));
  const dots = known.map((one) => `M${at(one, one.value)}h0`).join("");
  return picture(name, described(known, show), points, show, [
    band, svg("path", { class: "line", d: path(known, (one) => one.value) }), svg("path", { class: "dots", d: dots }),
  ], [show(least), show(most)]);
}

/** A bar a point, from zero. */
export function barChart(points, name, show = number) {
  const most = Math.max(1, ...points.map((one) => one.value));
  const wide = (WIDTH - 2 * EDGE) / points.length;
  const bars = points.map((one, place) => {
    const tall = (one.value / most) * (HEIGHT - EDGE);
    return svg("rect", { class: "column", x: EDGE + place * wide, y: HEIGHT - tall, width: Math.max(1, wide - 1.5), height: tall });
  });
  return picture(name, described(points, show), points, show, bars, ["0", show(most)]);
}

function placing(values, from, to) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return (value) => (most === least ? (from + to) / 2 : from + ((value - least) / (most - least)) * (to - from));
}

function described(points, show) {
  const values = points.map((one) => one.value);
  const [first, last] = [points[0], points.at(-1)];
  return `${counted(points.length, "value")} from ${minute(first.at)} to ${minute(last.at)} UTC: first ${show(first.value)}, `
    + `last ${show(last.value)}, lowest ${show(Math.min(...values))}, highest ${show(Math.max(...values))}.`;
}

function picture(name, words, points, show, marks, [least, most]) {
  const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `${name}: ${words}` }, marks);
  const bounded = points.some((one) => Number.isFinite(one.low) || Number.isFinite(one.high));
  const cell = (level) => el("td", {}, Number.isFinite(level) ? show(level) : "–");
  const head = ["UTC", "value", ...(bounded ? ["low", "high"] : [])].map((one) => el("th", { scope: "col" }, one));
  const rows = points.map((one) => el(
    "tr", {}, el("th", { scope: "row" }, minute(one.at)), cell(one.value), bounded && [cell(one.low), cell(one.high)],
  ));
  return el(
    "figure", { class: "chart" },
    el("div", { class: "plot" }, drawn, el("div", { class: "levels", "aria-hidden": "true" }, el("span", {}, most), el("span", {}, least))),
    el("figcaption", {}, el("span", {}, minute(points[0].at)), el("span", {}, minute(points.at(-1).at))),
    el("details", { "data-key": `values of ${name}` }, el("summary", {}, "Values"),
      el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Values of ${name}` },
        el("table", {}, el("caption", { class: "hidden" }, name), el("thead", {}, el("tr", {}, head)), el("tbody", {}, rows)))),
  );
}
