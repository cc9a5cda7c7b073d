// What becomes of a recording? It is sent, its text streams in, and what needs times asks for them once.
//
// A stream carries no times (docs/openai.md), so there are two kinds of answer. A recording is sent once for the stream, and
// a second time only when somebody wants what the stream cannot give; or once for both, where times are wanted from the start.

import { events, transcribe, whole } from "./api.js";
import { srt, vtt } from "./captions.js";
import { announce, byId, element, show } from "./dom.js";
import { followWords } from "./words.js";

const FORMATS = {
  txt: { type: "text/plain", write: (answer) => `${answer.text}\n` },
  json: { type: "application/json", write: (answer) => `${JSON.stringify(answer, null, 2)}\n` },
  srt: { type: "application/x-subrip", write: (answer) => srt(answer.segments) },
  vtt: { type: "text/vtt", write: (answer) => vtt(answer.segments) },
};

/** One recording and what is known of it; the page holds one at a time. */
export class Transcript {
  #file;
  #fields;
  #url;
  #answer = null;
  #asking = new AbortController();
  #forgotten = false;
  #endWords = () => {};

  /** fields: names and values of the form, beside the file and the format of the answer. */
  constructor(file, fields) {
    this.#file = file;
    this.#fields = fields;
    this.#url = URL.createObjectURL(file);
    byId("player").src = this.#url;
    byId("transcript").hidden = false;
    byId("player").hidden = false;
    byId("text").replaceChildren();
    forgetWords();
    for (const id of ["results", "times-hint", "fault"]) byId(id).hidden = true;
  }

  /** Send it, and show the text as it comes. Raises Refusal. */
  async stream() {
    await this.#work("Sealing and sending", async (signal) => {
      const response = await transcribe(this.#file, [...this.#fields, ["stream", "true"]], signal);
      const place = element("p");
      byId("text").replaceChildren(place);
      for await (const event of events(response)) {
        if (event.type === "transcript.text.delta") {
          progress("Listening…");
          place.append(element("span", {}, event.delta));
        } else if (event.type === "transcript.text.done") {
          this.#answer = event;
        }
      }
    });
    byId("times-hint").hidden = false;
    this.#done();
  }

  /** Send it for an answer with times; the text on the page becomes that answer's. Raises Refusal. */
  async ask() {
    await this.#work("Asking for times", async (signal) => {
      const times = [["response_format", "verbose_json"], ["timestamp_granularities[]", "segment"], ["timestamp_granularities[]", "word"]];
      this.#answer = await whole(await transcribe(this.#file, [...this.#fields, ...times], signal));
    });
    byId("text").setAttribute("aria-live", "off");  // it has been read out, or is there to be read
    this.#endWords();
    this.#endWords = followWords(this.#answer, byId("text"), byId("player"));
    byId("times-hint").hidden = true;
    offerWords();
    this.#done();
  }

  get #isTimed() {
    return this.#answer?.words !== undefined;
  }

  async markWords() {
    if (!this.#isTimed) await this.ask();
    byId("text").focus();
  }

  /** The file of a format, to save. Raises Refusal. */
  async download(format) {
    if (format !== "txt" && !this.#isTimed) await this.ask();
    const { type, write } = FORMATS[format];
    return new File([write(this.#answer)], `${this.#file.name.replace(/\.[^.]*$/, "")}.${format}`, { type });
  }

  cancel() {
    this.#asking.abort();
  }

  /** Let go of everything. */
  forget() {
    this.#forgotten = true;
    this.cancel();
    this.#endWords();
    byId("player").removeAttribute("src");
    URL.revokeObjectURL(this.#url);
  }

  #done() {
    byId("results").hidden = false;
    const count = this.#answer.text.split(/\s+/).filter(Boolean).length;
    progress(count ? `${this.#file.name}: ${count} ${count === 1 ? "word" : "words"}.` : `${this.#file.name}: nothing was said.`);
    announce("The transcript is complete.");
  }

  async #work(what, job) {
    this.#asking = new AbortController();
    progress(`${what}: ${this.#file.name}, ${size(this.#file.size)}…`);
    announce(what);
    byId("fault").hidden = true;
    byId("cancel").hidden = false;
    byId("transcript").setAttribute("aria-busy", "true");
    setButtons(false);
    try {
      await job(this.#asking.signal);
      this.#asking.signal.throwIfAborted();
    } catch (fault) {
      if (!this.#forgotten) progress(fault.name === "AbortError" ? "Stopped." : "");
      throw fault;
    } finally {
      if (!this.#forgotten) this.#rest();
    }
  }

  #rest() {
    byId("cancel").hidden = true;
    byId("transcript").removeAttribute("aria-busy");
    setButtons(true);
  }
}

/** Save a file as the browser does. */
export function save(file, name = file.name) {
  const url = URL.createObjectURL(file);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function setButtons(enabled) {
  for (const button of byId("results").querySelectorAll("button")) button.disabled = !enabled;
}

function progress(text) {
  show("progress-text", text);
}

function offerWords() {
  const text = byId("text");
  for (const [name, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", "Words of the recording"], ["aria-describedby", "keys"]]) {
    text.setAttribute(name, value);
  }
  byId("keys").hidden = false;
  byId("mark").hidden = true;
}

function forgetWords() {
  const text = byId("text");
  for (const name of ["tabindex", "role", "aria-label", "aria-describedby"]) text.removeAttribute(name);
  text.setAttribute("aria-live", "polite");
  byId("keys").hidden = true;
  byId("mark").hidden = false;
}

export function size(bytes) {
  if (bytes >= 1_000_000_000) return `${(bytes / 1_000_000_000).toFixed(1)} GB`;
  return bytes < 1_000_000 ? `${Math.max(1, Math.round(bytes / 1000))} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}
