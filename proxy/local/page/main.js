// What does the page do? It asks the proxy what it has verified, again and again, and hands recordings to a Transcript.

import { attestation, bundle, useAccountKey, useApiKey, useToken } from "./api.js";
import { announce, byId, element, show } from "./dom.js";
import { JobsView } from "./jobs.js";
import { LiveTranscript } from "./live.js";
import { record } from "./recorder.js";
import { snippet } from "./snippet.js";
import { Transcript, save } from "./transcript.js";
import { noReport, showVerdict, verdict } from "./verdict.js";

const POLL_MS = { attested: 30_000, insecure: 30_000, refused: 5_000, waiting: 2_000 };
const MAX_FILE_BYTES = 26_214_400;
const TOO_LARGE = "The recording is larger than 25 MiB, the most that is taken at once.";

let seen = { state: "waiting", title: "" };
let transcript = null;
const again = {};  // what waits for a secret, by its kind
let jobsView = null;  // where the proxy takes jobs, and gives an account of itself
let stopRecording = null;
let live = null;  // the live session that goes on
let recorded = null;  // a recording that waits for an engine

// What the proxy has verified.

async function look() {
  const before = seen;
  seen = await attestation().then(verdict).catch(noReport);
  showVerdict(seen);
  if (seen.title !== before.title) announce(seen.title);
  byId("controls").disabled = !seen.open && !stopRecording && !live;  // what runs can be stopped
  show("closed", seen.closed);
  if (seen.locked && byId("access").hidden) askForSecret("token");
  showModels(seen.attested?.statement.models ?? []);
  if (seen.open && recorded) take(recorded);
  if (!seen.silent) showJobs();
}

async function keepLooking() {
  if (!document.hidden) await look();
  setTimeout(keepLooking, POLL_MS[seen.state]);
}

function showModels(models) {
  const names = models.map(({ id }) => id);
  const select = byId("model");
  if (names.join() !== [...select.options].map(({ value }) => value).join()) {
    select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    showSnippet();
  }
  byId("model-field").hidden = names.length < 2;
}

// Secrets, where they are asked for.

const SECRETS = { token: "Token of this proxy", key: "API key of the engine", account: "Key of your account at this proxy" };

function askForSecret(kind) {
  byId("access").dataset.kind = kind;
  byId("secret-label").textContent = SECRETS[kind];
  byId("access").hidden = false;
}

byId("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  const secret = byId("secret").value;
  byId("secret").value = "";
  const { kind } = byId("access").dataset;
  const fault = kind === "token" && await useToken(secret).then((right) => !right && "That token is wrong.", ({ message }) => message);
  if (fault) {
    announce(fault);
    return show("verdict-warning", fault);
  }
  byId("access").hidden = true;
  if (kind === "token") await look();
  else if (kind === "key") useApiKey(secret);
  else useAccountKey(secret);
  showSnippet();
  const waiting = again[kind];
  delete again[kind];
  await waiting?.();
});

byId("bundle").addEventListener("click", async () => {
  try {
    save(await bundle(), "sottovoce-attestation.json");
  } catch {
    await look();  // which says why there is none any more
  }
});

// Recordings.

async function take(file) {
  recorded = null;
  if (!seen.open) return announce(`${seen.title} ${seen.closed}`);
  transcript?.forget();
  transcript = new Transcript(file, chosen());
  byId("transcript-title").focus();
  if (file.size > MAX_FILE_BYTES) return show("fault", TOO_LARGE + (jobsView ? " A background job may be larger: drop it below." : ""));
  const mine = transcript;
  await attempt(() => (byId("timed").checked ? mine.ask() : mine.stream()));
}

/** The fields of a form that both kinds of requests have. */
function chosen() {
  return [["model", byId("model").value], ["language", byId("language").value.trim()]].filter(([, value]) => value);
}

/** Do what may be refused, and say so; where an API key was missing, do it again once there is one. */
async function attempt(job) {
  delete again.key;
  try {
    await job();
  } catch (fault) {
    if (fault.name === "AbortError") return;
    show("fault", fault.message);
    if (fault.asks) {
      askForSecret(fault.asks);
      again[fault.asks] = () => attempt(job);
      byId("secret").focus();
    }
    await look();
  }
}

byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) take(file);
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  showDragging(event);
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) showDragging(null); });
addEventListener("drop", (event) => {
  event.preventDefault();
  showDragging(null);
  if (isForJobs(event)) return jobsView.take([...event.dataTransfer.files]);
  const [file] = event.dataTransfer.files;
  if (file) take(file);
});

const isForJobs = ({ target }) => jobsView !== null && byId("jobs").contains(target);

function showDragging(event) {
  const forJobs = event !== null && isForJobs(event);
  document.body.classList.toggle("dragging", event !== null && !forJobs && Boolean(seen.open));
  byId("jobs-drop").classList.toggle("over", forJobs);
}

byId("record").addEventListener("click", async () => {
  const stop = stopRecording;
  stopRecording = null;
  if (stop) {
    showRecording(false);
    recorded = await stop();
    return look();
  }
  byId("record").disabled = true;  // while the browser asks
  try {
    stopRecording = await record();
    showRecording(true);
  } catch {
    show("closed", "The browser gives no microphone: it was not allowed, or there is none.");
  } finally {
    byId("record").disabled = false;
  }
});

byId("live").addEventListener("click", () => {
  if (live) return live.stop();
  return attempt(listen);
});

async function listen() {
  transcript?.forget();
  const mine = new LiveTranscript();
  transcript = mine;
  live = mine;
  byId("live").disabled = true;  // while the browser asks
  try {
    await mine.hold(byId("model").value, byId("language").value.trim(), () => showLive(true));
  } catch (fault) {
    if (!(fault instanceof DOMException)) throw fault;
    show("closed", "The browser gives no microphone: it was not allowed, or there is none.");
    byId("transcript").hidden = true;
  } finally {
    if (live === mine) {
      live = null;
      showLive(false);
      announce("The session has ended.");
    }
  }
}

function showLive(on) {
  byId("live").disabled = false;
  byId("live").setAttribute("aria-pressed", String(on));
  byId("live").textContent = on ? "Stop listening" : "Live";
}

function showRecording(on) {
  byId("record").setAttribute("aria-pressed", String(on));
  byId("record").textContent = on ? "Stop and transcribe" : "Record";
  byId("clock").hidden = !on;
  announce(on ? "Recording." : "The recording has ended.");
  const begun = Date.now();
  const tick = () => {
    if (!stopRecording) return;
    const seconds = Math.floor((Date.now() - begun) / 1000);
    byId("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    setTimeout(tick, 250);
  };
  tick();
}

byId("source").addEventListener("submit", (event) => event.preventDefault());
byId("cancel").addEventListener("click", () => transcript.cancel());
byId("mark").addEventListener("click", () => attempt(() => transcript.markWords()));
for (const button of document.querySelectorAll("[data-format]")) {
  button.addEventListener("click", () => attempt(async () => save(await transcript.download(button.dataset.format))));
}

// Background jobs.

function showJobs() {
  const { jobsMaxBytes } = document.documentElement.dataset;  // of a proxy that takes jobs
  if (jobsView !== null || jobsMaxBytes === undefined) return;
  const fields = () => [
    ...chosen(),
    ...(byId("jobs-words").checked ? [["words", "true"]] : []),
    ...(byId("jobs-speakers").checked ? [["diarize", "true"]] : []),
  ];
  jobsView = new JobsView(fields, ({ asks }, work) => {
    askForSecret(asks);
    again[asks] = work;
  }, Number(jobsMaxBytes));
  jobsView.look();
}

// The example for programs.

function showSnippet() {
  const language = document.querySelector("[name=snippet]:checked").value;
  byId("snippet").textContent = snippet(language, byId("model").value || "whisper-1");
}

for (const radio of document.querySelectorAll("[name=snippet]")) radio.addEventListener("change", showSnippet);
byId("model").addEventListener("change", showSnippet);
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("snippet").textContent);
    byId("copy").textContent = "Copied";
    announce("Copied.");
    setTimeout(() => { byId("copy").textContent = "Copy"; }, 2000);
  } catch {
    getSelection().selectAllChildren(byId("snippet"));
    announce("The browser does not let pages copy; the example is selected.");
  }
});

showSnippet();
keepLooking();
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
