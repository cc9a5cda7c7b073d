// Is the engine attested, and why? The proxy's report in words: a sentence, its reason, and each check.

import { byId, element, show } from "./dom.js";

const RESULTS = { pass: "passed", fail: "failed", skip: "not made" };

/**
 * What a report comes to. state: attested, insecure, refused or waiting, of which the colours are. open: whether recordings
 * may be given. closed: why not.
 */
export function verdict(report) {
  const one = report.engine ?? report.last_attempt;
  return { checks: one?.checks ?? [], attested: report.engine, ...sentences(report) };
}

function sentences(report) {
  const { state, ready, insecure, engine, last_attempt: last } = report;
  if (state === "attested" && !ready) {
    return {
      state: "waiting",
      title: "The engine is attested, and takes nothing now.",
      why: "The proxy verifies it anew, or is about to end.",
      closed: "Nothing is sent meanwhile.",
    };
  }
  if (state === "attested") {
    const renewal = last && last.outcome !== "accepted" ? ` A newer try at ${moment(last.at)} failed: ${last.detail}` : "";
    return {
      state: insecure ? "insecure" : "attested",
      title: insecure ? "The engine is believed, not proven." : "The engine is attested.",
      why: `Verified at ${moment(engine.verified_at)}, in force until ${moment(engine.expires_at)}. ` +
        `What you send is sealed for it alone.${renewal}`,
      warning: insecure ? report.warning : "",
      open: true,
    };
  }
  if (state === "refused") {
    return {
      state: "refused",
      title: "The engine is refused.",
      why: "It did not prove that it is what the policy asks for. Nothing is sent to it.",
      // The checks that failed are told one by one; there are none where it failed before that.
      warning: last.checks.some((check) => check.status === "fail") ? "" : last.detail,
      closed: "Recordings stay here until an engine has proved itself.",
    };
  }
  if (state === "unreachable") {
    return {
      state: "waiting",
      title: "The engine cannot be reached.",
      why: `Tried at ${moment(last.at)}, and again soon.`,
      warning: last.detail,
      closed: "Recordings stay here until an engine has proved itself.",
    };
  }
  return { state: "waiting", title: "The engine is being verified.", why: "", closed: "A moment." };
}

/** What there is to say when the proxy gives no report; `fault` is a Refusal. */
export function noReport(fault) {
  const locked = fault.code === "invalid_local_token";
  return {
    state: "waiting",
    title: locked ? "The proxy asks for its token." : "The proxy gives no account.",
    why: fault.message,
    closed: locked ? "Without it, nothing can be asked or sent." : "Nothing can be sent meanwhile.",
    checks: [],
    silent: true,
    locked,
  };
}

/** Show it. The checks unfold by themselves where the engine is refused. */
export function showVerdict(seen) {
  const before = byId("engine").dataset.state;
  byId("engine").dataset.state = seen.state;
  byId("verdict-text").textContent = seen.title;
  show("verdict-why", seen.why);
  show("verdict-warning", seen.warning);
  showChecks(seen.checks);
  showFacts(seen.attested);
  byId("bundle-line").hidden = !seen.attested;
  if (seen.state === "refused" && before !== "refused") byId("checks").open = true;
}

function showChecks(checks) {
  const order = ["fail", "pass", "skip"];
  const sorted = [...checks].sort((one, other) => order.indexOf(one.status) - order.indexOf(other.status));
  byId("checks").hidden = checks.length === 0;
  byId("checks-summary").textContent = summary(checks);
  byId("checks-list").replaceChildren(...sorted.map(checkLine));
}

function checkLine({ name, status, detail }) {
  return element(
    "li",
    { "data-status": status },
    element("span", { class: "mark", "aria-hidden": "true" }),
    element("span", { class: "name" }, name),
    element("span", { class: "result" }, RESULTS[status] ?? status),
    element("span", { class: "detail" }, detail),
  );
}

function summary(checks) {
  const count = (status) => checks.filter((check) => check.status === status).length;
  const parts = Object.entries(RESULTS).filter(([status]) => count(status)).map(([status, word]) => `${count(status)} ${word}`);
  return `${checks.length} checks: ${parts.join(", ")}`;
}

function showFacts(attested) {
  const statement = attested?.statement;
  const facts = attested
    ? [
        ["Evidence", attested.evidence],
        ["Models", statement.models.map((model) => [model.id, ...model.aliases].join(", also ")).join("; ")],
        ["Instance", statement.instance],
        ["Sealed to", attested.keys_sha256.join(", ")],
      ]
    : [];
  byId("facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

/** A time of the API, as short as it is clear. */
export function moment(timestamp) {
  const at = new Date(timestamp);
  const today = at.toDateString() === new Date().toDateString();
  return new Intl.DateTimeFormat("en-GB", { timeStyle: "short", ...(today ? {} : { dateStyle: "medium" }) }).format(at);
}
