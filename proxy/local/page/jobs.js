// What becomes of recordings that nobody waits for? They are uploaded as jobs of the proxy, and asked after until they are over.

import { jobs, submitJob } from "./api.js";
import { announce, byId, element, show } from "./dom.js";
import { save, size } from "./transcript.js";
import { moment } from "./verdict.js";

const POLL_MS = { busy: 2_000, idle: 30_000 };
const PAGE = 20;
const MOST = 200;  // that one list has

const STATES = {
  created: "waits to be fetched",
  downloading: "is being fetched",
  pending: "waits for its turn",
  processing: "is being heard",
  completed: "done",
  failed: "failed",
  cancelled: "cancelled",
};
const OVER = ["completed", "failed", "cancelled"];
const FORMATS = { text: ["Text", "txt"], json: ["JSON", "json"], srt: ["SRT", "srt"], vtt: ["WebVTT", "vtt"] };

/** The jobs of a proxy that takes them, as far as the page shows them. */
export class JobsView {
  #fields;
  #locked;
  #maxBytes;
  #items = new Map();  // by id: the job, and what shows it
  #limit = PAGE;
  #waiting = Promise.resolve();  // for the uploads before
  #timer = null;

  /**
   * fields: gives names and values of the form, beside the file. locked: called with a Refusal that asks for a secret, and
   * with what to do once there is one. maxBytes: of a recording.
   */
  constructor(fields, locked, maxBytes) {
    this.#fields = fields;
    this.#locked = locked;
    this.#maxBytes = maxBytes;
    byId("jobs-off").hidden = true;
    byId("jobs-on").hidden = false;
    byId("jobs-choose").addEventListener("click", () => byId("jobs-files").click());
    byId("jobs-files").addEventListener("change", ({ target }) => {
      this.take(target.files);
      target.value = "";
    });
    byId("jobs-older").addEventListener("click", () => {
      this.#limit = Math.min(this.#limit + PAGE, MOST);
      this.look();
    });
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.look(); });
  }

  /** Ask how the jobs are; and again after a while, unless a secret is missing. Raises nothing. */
  async look() {
    clearTimeout(this.#timer);
    let waits = false;
    try {
      this.#show(await (await jobs(`?limit=${this.#limit}`)).json());
      waits = [...this.#items.values()].some(({ job }) => !OVER.includes(job.status));
      show("jobs-away", "");
    } catch (fault) {
      show("jobs-away", fault.message);
      if (fault.asks) return this.#locked(fault, () => this.look());
    }
    if (!document.hidden) this.#timer = setTimeout(() => this.look(), waits ? POLL_MS.busy : POLL_MS.idle);
  }

  /** Upload files, one after the other; each becomes a job. */
  take(files) {
    for (const file of files) {
      const upload = new Upload(file);
      this.#waiting = this.#waiting.then(() => this.#send(upload));
    }
  }

  async #send(upload) {
    if (upload.file.size > this.#maxBytes) {
      upload.forget();
      return show("jobs-fault", `${upload.file.name} is larger than ${size(this.#maxBytes)}, the most that this proxy takes.`);
    }
    await this.#attempt(() => upload.send(this.#fields()), () => this.take([upload.file]));
    upload.forget();
  }

  /** Do what may be refused, and say so; then ask how the jobs are. again: what to do once there is a secret that was missing. */
  async #attempt(work, again) {
    show("jobs-fault", "");
    try {
      await work();
    } catch (fault) {
      if (fault.name !== "AbortError") show("jobs-fault", fault.message);
      if (fault.asks) return this.#locked(fault, again);
    }
    return this.look();
  }

  #show(page) {
    const list = byId("jobs-list");
    const there = new Set(page.data.map(({ id }) => id));
    for (const [id, { line }] of this.#items) {
      if (there.has(id)) continue;
      line.remove();
      this.#items.delete(id);
    }
    let before = null;
    for (const job of page.data) {
      const item = this.#items.get(job.id) ?? this.#added(job);
      const after = before === null ? list.firstElementChild : before.nextElementSibling;
      if (after !== item.line) list.insertBefore(item.line, after);
      item.show(job);
      before = item.line;
    }
    byId("jobs-none").hidden = page.data.length > 0;
    byId("jobs-older").hidden = page.next_cursor === null || this.#limit >= MOST;
  }

  #added(job) {
    const item = new JobItem(job, (work) => this.#attempt(work, () => this.#attempt(work, () => this.look())));
    this.#items.set(job.id, item);
    return item;
  }
}

/** A file on its way, and the line that shows it. */
class Upload {
  file;
  #ending = new AbortController();
  #line;
  #bar;
  #state;

  constructor(file) {
    this.file = file;
    this.#bar = element("progress", { max: "1", value: "0", "aria-label": `Upload of ${file.name}` });
    this.#state = element("p", {}, "waits to be sent");
    const stop = button("Stop", file.name, () => this.#ending.abort());
    this.#line = element("li", {}, element("h3", {}, file.name), this.#state, this.#bar, element("div", { class: "row" }, stop));
    byId("jobs-uploads").append(this.#line);
  }

  /** Raises Refusal; DOMException where it was stopped. */
  async send(fields) {
    this.#ending.signal.throwIfAborted();
    announce(`Sending ${this.file.name}`);
    this.#told(0);
    await submitJob(this.file, fields, (part) => this.#told(part), this.#ending.signal);
    announce(`${this.file.name} is a job now.`);
  }

  forget() {
    if (this.#line.contains(document.activeElement)) byId("jobs-title").focus();
    this.#line.remove();
  }

  #told(part) {
    this.#bar.value = part;
    this.#state.textContent = part < 1 ? `is being sent: ${Math.floor(part * 100)} % of ${size(this.file.size)}` : "is being sealed";
  }
}

/** One job and the line that shows it, which stays the same element: whoever is in it with the keyboard stays there. */
class JobItem {
  job;
  line;
  #act;
  #name;
  #state = element("p");
  #bar;
  #actions = element("div", { class: "row" });

  /** act: does what it is given, says what is refused, and asks how the jobs are then. */
  constructor(job, act) {
    this.#act = act;
    this.#name = job.name ?? `Link of ${moment(job.created_at)}`;
    this.#bar = element("progress", { max: "100", "aria-label": `Progress of ${this.#name}` });
    this.line = element("li", {}, element("h3", {}, this.#name), this.#state, this.#bar, this.#actions);
  }

  show(job) {
    const before = this.job?.status;
    this.job = job;
    this.line.dataset.status = job.status;
    this.#state.textContent = [this.#told(), `submitted ${moment(job.created_at)}`].join(", ");
    this.#bar.hidden = job.status !== "processing";
    this.#bar.value = job.progress;
    if (job.status === before) return;
    this.#offer();
    if (before && OVER.includes(job.status)) announce(`${this.#name}: ${this.#told()}`);
  }

  #told() {
    const { status, progress, failure, duration_s: seconds } = this.job;
    if (status === "processing") return `${STATES.processing}: ${progress} %`;
    if (status === "completed" && seconds !== null) return `${STATES.completed}, ${clock(seconds)} of sound`;
    return status === "failed" ? `${STATES.failed}: ${failure.message}` : STATES[status];
  }

  #offer() {
    const hadFocus = this.#actions.contains(document.activeElement);
    const offered = OVER.includes(this.job.status) ? [this.#deleting()] : [this.#cancelling()];
    if (this.job.status === "completed") offered.unshift(...Object.keys(FORMATS).map((format) => this.#saving(format)));
    this.#actions.replaceChildren(...offered);
    if (hadFocus) offered[0].focus();
  }

  #saving(format) {
    const [label, ending] = FORMATS[format];
    return button(label, this.#name, () => this.#act(async () => {
      const body = await (await jobs(`/${this.job.id}/result?format=${format}`)).blob();
      save(body, `${this.#name.replace(/\.[^.]*$/, "")}.${ending}`);
    }));
  }

  #cancelling() {
    return button("Cancel", this.#name, () => this.#act(() => jobs(`/${this.job.id}/cancel`, "POST")));
  }

  /** A first click asks, since nothing brings it back. */
  #deleting() {
    const made = button("Delete", this.#name, () => {
      if (!made.dataset.sure) {
        made.dataset.sure = "asked";
        made.firstChild.data = "Delete for good";
        return announce("Press again to delete it for good.");
      }
      return this.#act(async () => {
        await jobs(`/${this.job.id}`, "DELETE");
        byId("jobs-title").focus();
        announce(`${this.#name} is deleted.`);
      });
    });
    made.classList.add("end");
    made.addEventListener("blur", () => {
      delete made.dataset.sure;
      made.firstChild.data = "Delete";
    });
    return made;
  }
}

/** A button that says what it does, and to those who do not see it, to what. */
function button(label, name, work) {
  const made = element("button", { type: "button" }, label, element("span", { class: "unseen" }, ` ${name}`));
  made.addEventListener("click", work);
  return made;
}

function clock(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const whole = Math.round(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
