// How does sound become what a live session takes? 16-bit PCM of at most 24 kHz, in pieces of a tenth of a second.
//
// A module of the audio thread. Of 48 kHz the mean of each two samples is kept, of 44.1 kHz too: a session takes 22.05 kHz.

const FACTOR = Math.ceil(sampleRate / 24_000);

registerProcessor("pcm", class extends AudioWorkletProcessor {
  #piece = new Int16Array(Math.round(sampleRate / FACTOR / 10));
  #filled = 0;
  #sum = 0;
  #summed = 0;

  process([[samples = []]]) {
    for (const sample of samples) {
      this.#sum += sample;
      this.#summed += 1;
      if (this.#summed === FACTOR) this.#keep();
    }
    return true;
  }

  #keep() {
    this.#piece[this.#filled] = Math.max(-1, Math.min(1, this.#sum / FACTOR)) * 32_767;
    this.#filled += 1;
    this.#sum = 0;
    this.#summed = 0;
    if (this.#filled < this.#piece.length) return;
    this.port.postMessage(this.#piece);  // which is copied
    this.#filled = 0;
  }
});
