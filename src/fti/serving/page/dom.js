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

/**
 * Show `fresh` in the place of what `holder` shows, by changing what differs and nothing else: what is open stays open,
 * scrolled as it was, and so does focus. Nodes that stay keep their listeners: what is renewed should have none.
 */
export function refresh(holder, ...fresh) {
  const next = el(holder.tagName);
  next.append(...fresh.flat(Infinity).filter(Boolean));
  const opened = new Map([...holder.querySelectorAll("details")].map((one) => [one.dataset.key, one.open]));
  for (const one of next.querySelectorAll("details")) {
    if (opened.has(one.dataset.key)) one.open = opened.get(one.dataset.key);
  }
  renew(holder, next);
}

const keyOf = (node) => node?.dataset?.key;

/** Children are matched by their `data-key`, and by their place where they have none. None is moved: that takes focus. */
function renew(holder, next) {
  const fresh = [...next.childNodes];
  fresh.forEach((child, place) => {
    const kept = keyOf(child) && [...holder.childNodes].slice(place).find((one) => keyOf(one) === keyOf(child));
    while (kept && holder.childNodes[place] !== kept) holder.childNodes[place].remove();
    const there = holder.childNodes[place];
    if (!there || (keyOf(there) && !kept)) holder.insertBefore(child, there ?? null);
    else if (there.isEqualNode(child)) return;
    else if (there.nodeName === child.nodeName && there.attributes) {
      for (const { name } of [...there.attributes]) if (!child.hasAttribute(name)) there.removeAttribute(name);
      for (const { name, value } of child.attributes) if (there.getAttribute(name) !== value) there.setAttribute(name, value);
      renew(there, child);
    } else there.replaceWith(child);
  });
  while (holder.childNodes.length > fresh.length) holder.lastChild.remove();
}
