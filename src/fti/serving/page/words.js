// How names, numbers and moments read. Names follow the project's own rule: what, statistic, window, with underscores.

const UNITS = { min: "minute", h: "hour", d: "day", w: "week" };

export const human = (name) => name.replaceAll("_", " ").trim();

export const titled = (text) => text.charAt(0).toUpperCase() + text.slice(1);

export const counted = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

/** `route_late_rate_7d` is "route late rate, last 7 days". */
export function featureName(name) {
  const [, stem, count, unit] = /^(.+?)_(\d+)(min|h|d|w)$/.exec(name) ?? [null, name];
  if (!count) return human(name);
  return `${human(stem)}, last ${count === "1" ? UNITS[unit] : `${count} ${UNITS[unit]}s`}`;
}

/** `is_late` is "late". */
export const outcome = (label) => human(label).replace(/^(is|has|was|will|did) /, "");

export const rule = (definition) => human(definition).replace(">=", "≥").replace("<=", "≤").replace("!=", "≠");

export function number(value, digits = 3) {
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString("en").replace("-", "−");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return value.toExponential(2).replace("-", "−");
  const shown = size >= 10 ** digits ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: digits };
  return value.toLocaleString("en", shown).replace("-", "−");
}

export function signed(value) {
  const shown = value.toFixed(2).replace("-", "−");
  return value > 0 ? `+${shown}` : shown;
}

/** Whole per cents, and tenths where whole ones would read as never or always. */
export function percent(share) {
  const whole = share * 100;
  return `${whole < 1 || whole > 99 ? whole.toFixed(1).replace(/\.0$/, "") : Math.round(whole)} %`;
}

export function value(found, unit = "") {
  if (found === null || found === undefined) return "not known";
  if (typeof found === "boolean") return found ? "yes" : "no";
  if (typeof found !== "number") return String(found);
  if (unit === "ratio") return `${number(found * 100)} %`;
  return unit ? `${number(found)} ${found === 1 ? unit.replace(/s$/, "") : unit}` : number(found);
}

/** 0 s, 45 min, 3 h 20 min, 2 d 4 h, 304 d. */
export function span(seconds) {
  const size = Math.round(Math.abs(seconds));
  if (size < 90) return `${size} s`;
  const minutes = Math.round(size / 60);
  const [days, hours, rest] = [Math.floor(minutes / 1440), Math.floor(minutes / 60) % 24, minutes % 60];
  if (days >= 10) return `${number(days)} d`;
  if (days) return hours ? `${days} d ${hours} h` : `${days} d`;
  return [hours && `${hours} h`, rest && `${rest} min`].filter(Boolean).join(" ");
}

export const old = (seconds) => (seconds < 1 ? "just now" : `${span(seconds)} old`);

/** 2013-10-01 02:05 UTC */
export function moment(iso) {
  return iso ? `${minute(iso)} UTC` : "never";
}

/** 2013-10-01 02:05, whatever offset it was written with. */
export const minute = (iso) => new Date(iso).toISOString().slice(0, 16).replace("T", " ");

export const isMoment = (text) => typeof text === "string" && /^\d{4}-\d\d-\d\dT\d\d:\d\d/.test(text);
