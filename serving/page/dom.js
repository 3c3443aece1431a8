// Elements without a framework: text is always text, so nothing that a service says can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes (null and false leave one out, `on` holds listeners) and children, texts or nodes. */
export function el(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(element, { on = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(name, value === true ? "" : value);
  }
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Show `fresh` in the place of what `holder` shows, unless it looks the same: what is open stays open, and so does focus. */
export function refresh(holder, ...fresh) {
  const next = el(holder.tagName);
  next.append(...fresh.flat(Infinity).filter(Boolean));
  const opened = new Map([...holder.querySelectorAll("details")].map((one) => [one.dataset.key, one.open]));
  for (const one of next.querySelectorAll("details")) {
    if (opened.has(one.dataset.key)) one.open = opened.get(one.dataset.key);
  }
  const same = holder.childNodes.length === next.childNodes.length
    && [...holder.childNodes].every((child, place) => child.isEqualNode(next.childNodes[place]));
  if (same) return;
  const places = (parent) => [...parent.querySelectorAll("a, button, summary")];
  const focused = places(holder).indexOf(document.activeElement);
  holder.replaceChildren(...next.childNodes);
  if (focused >= 0) places(holder)[focused]?.focus({ preventScroll: true });
}
