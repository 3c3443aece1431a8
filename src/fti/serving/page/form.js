// The form of the served version: it asks for what the fields say, and gives the JSON of a request.

import { el } from "./dom.js";
import { isMoment } from "./words.js";

export class Form {
  /** Fills `holder`, a form; `kept` has what was typed into an earlier one, by field. */
  constructor(holder, fields, kept = {}) {
    this.holder = holder;
    this.fields = fields;
    this.inputs = new Map();
    this.summary = el("div", { class: "problems", role: "alert" });
    this.button = el("button", { type: "submit", class: "primary" }, "Predict");
    holder.replaceChildren(
      this.summary,
      el("div", { class: "fields" }, fields.map((field) => this.#row(field))),
      el("div", { class: "actions" }, this.button),
    );
    this.fill(Object.fromEntries(fields.map((field) => [field.name, field.example])));
    this.restore(kept);
  }

  #row(field) {
    const id = `field-${field.name}`;
    const hint = field.hint && el("p", { class: "hint", id: `${id}-hint` }, field.hint);
    const problem = el("p", { class: "problem", id: `${id}-problem` });
    const input = inputOf(field, id, [hint && hint.id, problem.id].filter(Boolean).join(" "));
    this.inputs.set(field.name, input);
    const label = el(
      "label", { for: id }, field.label,
      field.noun && el("span", { class: "noun" }, ` ${field.noun}`),
      field.kind === "moment" && el("span", { class: "noun" }, " UTC"),
      !field.required && el("span", { class: "noun" }, " (optional)"),
    );
    const listed = field.kind === "completed"
      && el("datalist", { id: `${id}-list` }, field.choices.map((one) => el("option", { value: one })));
    return el("div", { class: `field ${field.kind}` }, label, input, listed, problem, hint);
  }

  /** Show a request's values; a field that it does not have becomes empty. */
  fill(request) {
    this.showProblems({});
    for (const field of this.fields) put(this.inputs.get(field.name), field, request[field.name] ?? null);
  }

  /** Move one moment; all else stays as it is. */
  move(name, moment) {
    put(this.inputs.get(name), this.fields.find((field) => field.name === name), moment);
  }

  /** What is typed, by field, for `restore` on another form. */
  typed() {
    return Object.fromEntries([...this.inputs].map(([name, input]) => [name, input.type === "checkbox" ? input.checked : input.value]));
  }

  restore(typed) {
    for (const [name, input] of this.inputs) {
      if (!(name in typed)) continue;
      if (input.type === "checkbox") input.checked = typed[name] === true;
      else if (input.tagName !== "SELECT" || [...input.options].some((one) => one.value === typed[name])) input.value = typed[name];
    }
  }

  /** The request as JSON text; null when a field holds what its type cannot: then its problem is shown. */
  read() {
    const parts = [], problems = {};
    for (const field of this.fields) {
      const input = this.inputs.get(field.name);
      if (input.validity.badInput) problems[field.name] = `this is no ${field.kind === "moment" ? "moment" : "number"}`;
      const json = jsonOf(input, field);
      if (json !== null) parts.push(`${JSON.stringify(field.name)}: ${json}`);
    }
    this.showProblems(problems);
    return Object.keys(problems).length ? null : `{${parts.join(", ")}}`;
  }

  /** Each problem at its field; all of them, announced, above; focus on the first. */
  showProblems(problems) {
    for (const [name, input] of this.inputs) {
      input.toggleAttribute("aria-invalid", false);
      if (name in problems) input.setAttribute("aria-invalid", "true");
      input.parentElement.querySelector(".problem").textContent = problems[name] ?? "";
    }
    const listed = Object.entries(problems).map(([name, problem]) => el("li", {}, this.#named(name), problem));
    this.summary.replaceChildren(...(listed.length ? [el("p", {}, "This cannot be predicted as it is:"), el("ul", {}, listed)] : []));
    [...this.inputs].find(([name]) => name in problems)?.[1].focus();
  }

  #named(name) {
    const field = this.fields.find((one) => one.name === name);
    if (!field) return name === "body" ? "" : `${name}: `;
    const focus = (event) => { event.preventDefault(); this.inputs.get(name).focus(); };
    return [el("a", { href: `#field-${name}`, on: { click: focus } }, field.label), ": "];
  }
}

function inputOf(field, id, describedBy) {
  const common = { id, name: field.name, required: field.required, "aria-describedby": describedBy, autocomplete: "off" };
  const unset = el("option", { value: "" }, field.required ? "choose one" : "not given");
  switch (field.kind) {
    case "choice":
      return el("select", common, unset, field.choices.map((one) => el("option", { value: one }, one)));
    case "completed":
      return el("input", { ...common, type: "text", list: `${id}-list` });
    case "flag":
      if (field.required) return el("input", { ...common, required: false, type: "checkbox" });
      return el("select", common, unset, el("option", { value: "true" }, "yes"), el("option", { value: "false" }, "no"));
    case "moment":
      return el("input", { ...common, type: "datetime-local" });
    case "integer":
      return el("input", { ...common, type: "number", step: 1, inputmode: "numeric" });
    case "number":
      return el("input", { ...common, type: "number", step: "any", inputmode: "decimal" });
    default:
      return el("input", { ...common, type: "text" });
  }
}

function put(input, field, value) {
  if (input.type === "checkbox") {
    input.checked = value === true;
  } else if (field.kind === "moment" && isMoment(value)) {
    const written = new Date(value).toISOString();
    const seconds = !written.endsWith(":00.000Z");
    input.step = seconds ? "any" : "60";
    input.value = written.slice(0, seconds ? -1 : 16);
  } else {
    input.value = value ?? "";
  }
}

/** The JSON of one input; null when it is empty. Integers go as they are typed: JavaScript's own end at 2^53. */
function jsonOf(input, field) {
  if (input.type === "checkbox") return String(input.checked);
  const text = input.value.trim();
  if (text === "") return null;
  if (field.kind === "moment") return JSON.stringify(`${text.length === 16 ? `${text}:00` : text}Z`);
  if (field.kind === "flag") return text;
  if (field.kind === "integer" && /^-?(0|[1-9]\d*)$/.test(text)) return text;
  if (field.kind === "integer" || field.kind === "number") return JSON.stringify(Number(text));
  return JSON.stringify(text);
}
