// What an app in JavaScript hears of a live session with OpenAI's SDK, printed as JSON: its events, one a line.
// Usage: node live.js BASE_URL RECORDING, with a WAV file of 16 kHz
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const HEADER_BYTES = 44;
const PIECE_BYTES = 3200;

const [baseURL, recording] = process.argv.slice(2);
const live = new OpenAIRealtimeWS({ model: "nano" }, new OpenAI({ baseURL, apiKey: "sk-app" }));

live.on("event", (event) => process.stdout.write(JSON.stringify(event) + "\n"));
live.on("error", () => live.close());
live.on("session.created", () => {
  const input = { format: { type: "audio/pcm", rate: 16000 }, turn_detection: null };
  live.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
  const audio = readFileSync(recording).subarray(HEADER_BYTES);
  for (let start = 0; start < audio.length; start += PIECE_BYTES) {
    const piece = audio.subarray(start, start + PIECE_BYTES).toString("base64");
    live.send({ type: "input_audio_buffer.append", audio: piece });
  }
  live.send({ type: "input_audio_buffer.commit" });
});
live.on("conversation.item.input_audio_transcription.completed", () => live.close());
