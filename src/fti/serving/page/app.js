// The page: two views of one service, and what happens when the version that serves changes meanwhile.

import { answerOf, failureOf } from "./answer.js";
import { ApiError, ask, askIfThere } from "./api.js";
import { byId, el, refresh } from "./dom.js";
import { fieldsOf } from "./fields.js";
import { Form } from "./form.js";
import { showPicker } from "./picker.js";
import { statusOf } from "./status.js";
import { counted, human, moment, outcome, rule, span, titled } from "./words.js";

const POLL_MS = 5000;
const AGAIN_MS = 1000;

let model = null; // what /model says of the version that the form is for
let baseRate = null; // the share of all cases that come out as the label, where this key may know it
let form = null;
let untouched = null; // what the first form holds by itself; as long as it does, it may be filled with a real case
let offered = null; // the form that has its picker
let answered = null; // the version whose answer is shown
let taking = null; // what builds a form now
let sighted = null; // another version that was seen once: workers move one after another
let asking = 0;

const view = () => (location.hash === "#status" ? "status" : "predict");

async function described() {
  for (let attempt = 0; ; attempt += 1) {
    const [{ body: document }, { body: account }] = await Promise.all([ask("openapi.json"), ask("model")]);
    // A version may take over between the two.
    if (document.info.version === account.version || attempt === 5) {
      return { account, schema: document.paths["/predict"].post.requestBody.content["application/json"].schema };
    }
  }
}

/** Build the form of the version that serves now, and keep what was typed into the one before. */
async function takeNow() {
  const { account, schema } = await described();
  const before = model;
  if (before?.version === account.version) return;
  form = new Form(byId("form"), fieldsOf(schema, account.contract), form ? form.typed() : {});
  model = account;
  head(account);
  if (before) {
    untouched = null;
    notify("swap", `Version ${account.version} took over from version ${before.version}. The form below is its own; what you typed is kept.`);
    markAnswer();
  } else {
    untouched = JSON.stringify(form.typed());
    refresh(byId("answer"), introduction(account));
  }
}

/** As takeNow, once at a time: whoever looks while it is under way waits for the same. */
const take = () => (taking ??= takeNow().finally(() => { taking = null; }));

/** Offer real requests to start the form from, and show the first form with one of them, answered. */
async function offer() {
  const mine = form;
  if (offered === mine) return;
  const [known, status] = await Promise.all([askIfThere("requests"), askIfThere("status")]);
  if (offered === mine || form !== mine) return;
  offered = mine;
  baseRate = status?.model?.base_rate ?? null;
  const requests = known?.requests ?? [];
  showPicker(byId("picker"), requests, mine.fields, (request) => {
    form.fill(request);
    predict({ movesOn: true });
  });
  // Who was quicker with the keyboard goes first.
  if (asking > 0 || JSON.stringify(form.typed()) !== untouched) return;
  const first = firstOf(requests, status?.views ?? []);
  if (first) form.fill({ as_of: first.as_of, ...first.request });
  predict({ unasked: true, movesOn: true });
}

/** The request that is due next, as seen from the newest row that is online; failing that, the last one that was made. */
function firstOf(requests, views) {
  const moments = views.map((view) => Date.parse(view.newest)).filter(Number.isFinite);
  if (!moments.length) return requests[0];
  const newest = Math.max(...moments);
  const due = requests.filter((one) => Date.parse(one.as_of) >= newest);
  return due.sort((one, other) => Date.parse(one.as_of) - Date.parse(other.as_of))[0] ?? requests[0];
}

/** Say whose the answer is that is shown, where that is not the version that the form is for. */
function markAnswer() {
  const others = answered !== null && answered !== model.version;
  byId("answer").classList.toggle("past", others);
  byId("answer-title").textContent = others ? `The answer of version ${answered}` : "The answer";
}

function head({ name, version, following, contract, meanings }) {
  const { label, label_definition, prediction_anchor, prediction_lead_minutes, task } = contract.interface;
  const [title, what] = [titled(human(name.replaceAll("-", " "))), outcome(label)];
  document.title = `${title}: predictions`;
  byId("model-name").textContent = title;
  byId("serving").replaceChildren(`version ${version}`, el("span", {}, ` · ${following}`));
  byId("question").textContent = meanings?.[label]?.question
    ?? (task === "regression" ? `How much is “${human(label)}”?` : `How likely is “${what}”?`);
  const means = task === "regression" ? `It is ${rule(label_definition)}` : `“${titled(what)}” means ${rule(label_definition)}`;
  byId("meaning").textContent = `${means}, told ${span(prediction_lead_minutes * 60)} before ${human(prediction_anchor)}.`;
}

function introduction({ contract }) {
  const { inputs, stored_views } = contract.interface;
  return [
    el("h2", { id: "answer-title" }, "The answer"),
    el("p", { class: "lead" }, "The form holds a real case to begin with. Change it, or press Predict."),
    el("p", { class: "quiet" },
      `The model looks up what is known of that case in ${counted(stored_views.length, "feature view")}, ${counted(inputs.length, "feature")} in all, `
      + "and answers from that. You see each value, how old it is, and how far it moved the answer."),
  ];
}

/**
 * Ask for what the form holds. What nobody pressed a button for, `unasked`, leaves no trace, not even an error. What
 * `movesOn` was asked before: where the store no longer knows its moment, it is asked as of the first that it does know.
 */
async function predict({ unasked = false, movesOn = false, moved = false } = {}) {
  const request = form.read();
  if (request === null) return;
  const mine = (asking += 1);
  const holder = byId("answer");
  holder.setAttribute("aria-busy", "true");
  form.button.disabled = true;
  try {
    const { body, requestId, why } = await explained(request, unasked);
    if (mine !== asking) return;
    const said = answerOf(body, { model, baseRate, asked: request, requestId, why });
    holder.replaceChildren(
      el("h2", { id: "answer-title" }, "The answer"), el("p", { class: "hidden", role: "status" }),
      moved ? el("p", { class: "quiet" }, `As of ${moment(body.as_of)}: the online store has moved on since this was asked first.`) : "",
      ...said.nodes.flat().filter(Boolean),
    );
    answered = body.model.version;
    markAnswer();
    // A live region is read when it changes, not when it appears.
    setTimeout(() => { holder.querySelector("[role=status]").textContent = said.sentence; }, 50);
    if (!unasked) reveal(holder);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (mine !== asking) return;
    if (movesOn && error.earliest) {
      form.move("as_of", error.earliest);
      await predict({ unasked, moved: true });
      return;
    }
    if (unasked) return;
    const fields = error.status === 422 ? error.fields : {};
    form.showProblems(fields);
    if (Object.keys(fields).length === 0) {
      holder.replaceChildren(el("h2", { id: "answer-title" }, "The answer"), el("div", { role: "alert" }, failureOf(error)));
      answered = null;
      markAnswer();
      reveal(holder);
    }
  } finally {
    holder.removeAttribute("aria-busy");
    form.button.disabled = false;
  }
}

/** The prediction with its explanation; of a model that has none, why, and the prediction alone, which is logged. */
async function explained(request, unasked) {
  try {
    return await ask("explain", request);
  } catch (error) {
    if (unasked || error.status !== 501) throw error;
    return { ...(await ask("predict", request)), why: error.message };
  }
}

function reveal(holder) {
  const { top } = holder.getBoundingClientRect();
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (top < 0 || top > innerHeight * 0.6) holder.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
}

function notify(key, text, bad = false) {
  const there = document.querySelector(`#notices [data-key="${key}"]`);
  if (text && there?.querySelector("p").textContent === text) return; // not read aloud again
  there?.remove();
  if (!text) return;
  const close = el("button", { type: "button", "aria-label": "Dismiss", on: { click: () => notify(key, "") } }, "×");
  byId("notices").append(el("div", { class: `notice ${bad ? "bad" : "good"}`, "data-key": key }, el("p", {}, text), close));
}

/** Look what serves, and at the status when it is shown. */
async function look() {
  let wait = POLL_MS;
  try {
    if (!document.hidden) {
      if (model === null) await take();
      const { body } = await ask("model");
      if (body.version === model.version) sighted = null;
      else if (body.version === sighted) { sighted = null; await take(); }
      else { sighted = body.version; wait = AGAIN_MS; }
      if (view() === "status") await lookAtStatus();
      await offer();
      notify("away", "");
    }
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    notify("away", `${error.message} This page asks again every ${POLL_MS / 1000} seconds.`, true);
  } finally {
    clearTimeout(look.next);
    look.next = setTimeout(look, wait);
  }
}

async function lookAtStatus() {
  try {
    refresh(byId("status"), statusOf((await ask("status")).body));
  } catch (error) {
    if (![401, 403, 404].includes(error.status)) throw error;
    const words = error.status === 404 ? "This service tells no status." : "The status is for those who run the service: open this page with a key that was made with --admin.";
    refresh(byId("status"), el("p", { class: "notice warn" }, words));
  }
}

function route() {
  for (const name of ["predict", "status"]) byId(`view-${name}`).hidden = name !== view();
  for (const link of document.querySelectorAll("header a[href^='#']")) {
    if (link.hash === `#${view()}` && !link.classList.contains("brand")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
addEventListener("hashchange", () => {
  const before = ["predict", "status"].find((name) => !byId(`view-${name}`).hidden);
  route();
  if (view() === before) return;
  scrollTo(0, 0);
  look();
});
document.addEventListener("visibilitychange", () => !document.hidden && look());
route();
look();
