// The request schema and the contract of the served version in; what the form asks for out.

import { human, titled } from "./words.js";

// As many as a list that is typed into still finds its way through; longer ones are completed from a datalist.
const MOST_CHOICES = 300;

/**
 * One entry a field: `name`, `label`, `noun`, `hint`, `kind` (choice, completed, moment, flag, integer, number, text),
 * `required`, `choices`, `example`. What other models take, and this one leaves alone, is left out.
 */
export function fieldsOf(schema, contract) {
  const keys = new Map(contract.interface.join_keys.map((key) => [key.request_field, key]));
  return Object.entries(schema.properties)
    .map(([name, property]) => fieldOf(name, property, schema, keys.get(name), contract.known_values))
    .filter(Boolean);
}

function fieldOf(name, property, schema, key, knownValues) {
  const type = [property, ...(property.anyOf ?? [])].find((one) => one.type && one.type !== "null");
  if (!type) return null;
  // Numbers and moments are typed: the service says which it knows.
  const known = key && kindOf(type) === "text" ? knownValues[key.name] : null;
  const choices = known ?? type.enum ?? null;
  const label = titled(human(name));
  return {
    name,
    label,
    noun: key && !key.floor_seconds && key.noun !== label.toLowerCase() ? key.noun : "",
    hint: property.description ?? "",
    kind: choices ? (choices.length > MOST_CHOICES ? "completed" : "choice") : kindOf(type),
    required: (schema.required ?? []).includes(name),
    choices,
    example: schema.example?.[name] ?? null,
  };
}

function kindOf(type) {
  if (type.format === "date-time") return "moment";
  return { boolean: "flag", integer: "integer", number: "number" }[type.type] ?? "text";
}
