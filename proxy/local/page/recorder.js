// How is a recording made here? By the browser's recorder, from a click to the next; the microphone is let go at once.

const TYPES = ["audio/webm;codecs=opus", "audio/mp4", "audio/ogg;codecs=opus"];

/** Begin to record. Returns a function that stops, and resolves with the file. Raises DOMException without permission. */
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
  const recorder = new MediaRecorder(stream, { mimeType });
  const pieces = [];
  recorder.addEventListener("dataavailable", ({ data }) => pieces.push(data));
  const stopped = new Promise((resolve) => { recorder.addEventListener("stop", resolve); });
  recorder.start();
  return async () => {
    recorder.stop();
    await stopped;
    for (const track of stream.getTracks()) track.stop();
    const type = recorder.mimeType.split(";")[0];
    return new File(pieces, `recording.${type.split("/")[1]}`, { type });
  };
}
