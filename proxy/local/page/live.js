// What becomes of words while they are said? The microphone goes into a live session, and its turns into the page.
//
// Words of a turn that goes on are shown and not read out; its final text takes their place and is.

import { Refusal, liveSocket } from "./api.js";
import { announce, byId, element, show } from "./dom.js";

const TEXT = "conversation.item.input_audio_transcription.";
const LAST = "last";  // names the commit after the last audio

/** The default microphone: `hear` gets pieces of PCM. Raises DOMException without permission. */
async function microphone(hear) {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const context = new AudioContext();
  const close = () => {
    for (const track of stream.getTracks()) track.stop();
    if (context.state !== "closed") context.close();
  };
  try {
    await context.audioWorklet.addModule("/page/pcm.js");
  } catch (fault) {
    close();
    throw fault;
  }
  const node = new AudioWorkletNode(context, "pcm", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  node.port.onmessage = ({ data }) => hear(new Uint8Array(data.buffer));
  context.createMediaStreamSource(stream).connect(node);
  return { rate: context.sampleRate / Math.ceil(context.sampleRate / 24_000), close };
}

/** One session, from a click to the next, in the place of a Transcript. */
export class LiveTranscript {
  #socket = null;
  #microphone = null;
  #going = element("p", { class: "going-on", "aria-live": "off" });
  #words = new Map();
  #awaited = new Set();
  #lastTaken = false;
  #forgotten = false;

  constructor() {
    byId("transcript").hidden = false;
    byId("transcript").removeAttribute("aria-busy");
    for (const id of ["results", "times-hint", "fault", "keys", "cancel", "player"]) byId(id).hidden = true;
    for (const name of ["tabindex", "role", "aria-label", "aria-describedby"]) byId("text").removeAttribute(name);
    byId("text").setAttribute("aria-live", "polite");
    byId("text").replaceChildren(this.#going);
  }

  /** Hear until `stop`, and show what was said. `begun` is called with the microphone open. Raises Refusal, DOMException. */
  async hold(model, language, begun) {
    show("progress-text", "Asking for the microphone…");
    try {
      this.#microphone = await microphone((pcm) => this.#send("input_audio_buffer.append", { audio: btoa(String.fromCharCode(...pcm)) }));
      if (this.#forgotten) return;
      begun();
      await this.#session(model, language);
      if (!this.#forgotten) show("progress-text", byId("text").innerText.trim() ? "The session has ended." : "Nothing was said.");
    } catch (fault) {
      if (this.#forgotten) return;
      show("progress-text", "");
      throw fault;
    } finally {
      this.forget();
    }
  }

  /** Let the microphone go; what was said is still shown. */
  stop() {
    this.#microphone?.close();
    if (this.#socket.readyState !== WebSocket.OPEN) return this.forget();
    this.#send("input_audio_buffer.commit", { event_id: LAST });
    this.#send("input_audio_buffer.clear");
    show("progress-text", "The last words…");
  }

  /** Let go of everything. */
  forget() {
    this.#forgotten = true;
    this.#microphone?.close();
    this.#microphone = null;
    this.#socket?.close();
    this.#going.remove();
  }

  #session(model, language) {
    const socket = liveSocket(model);
    this.#socket = socket;
    return new Promise((resolve, reject) => {
      socket.onopen = () => {
        const format = { type: "audio/pcm", rate: this.#microphone.rate };
        const input = language ? { format, transcription: { language } } : { format };
        this.#send("session.update", { session: { type: "transcription", audio: { input } } });
        show("progress-text", "Listening…");
        announce("Listening.");
      };
      socket.onmessage = ({ data }) => {
        try {
          this.#take(JSON.parse(data));
        } catch (fault) {
          reject(fault);
        }
        if (this.#lastTaken && !this.#awaited.size) resolve();
      };
      socket.onclose = () => {
        if (this.#forgotten) resolve();
        reject(new Refusal("The session broke off: what is here is not the whole text.", "stream_truncated"));
      };
    });
  }

  #send(type, members = {}) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type, ...members }));
  }

  #take(event) {
    const { type, item_id: item } = event;
    if (type === "error") refuse(event.error);
    if (type === "input_audio_buffer.committed") this.#awaited.add(item);
    if (type === "input_audio_buffer.cleared") this.#lastTaken = true;
    if (type === `${TEXT}delta`) this.#words.set(item, (this.#words.get(item) ?? "") + event.delta);
    if (type === `${TEXT}completed` || type === `${TEXT}failed`) {
      this.#words.delete(item);
      this.#awaited.delete(item);
      if (event.transcript) this.#going.before(element("p", {}, event.transcript));
      if (type === `${TEXT}failed`) show("fault", "The engine could not hear one of the turns; its text is missing.");
    }
    this.#going.textContent = [...this.#words.values()].join("");
  }
}

/** That nobody spoke after the last turn is the only error that was to be expected. */
function refuse({ event_id: id, code, message }) {
  if (id === LAST && code === "input_audio_buffer_commit_empty") return;
  throw new Refusal(message, code, code === "invalid_api_key" ? 401 : 0);
}
