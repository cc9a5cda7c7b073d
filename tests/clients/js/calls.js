// What an app in JavaScript does with OpenAI's SDK, printed as one JSON object: a call's name and what came of it.
// Usage: node calls.js BASE_URL RECORDING
import { File } from "node:buffer";
import { createReadStream } from "node:fs";
import OpenAI from "openai";

globalThis.File ??= File; // a global from Node 20 on

const [baseURL, recording] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-app", maxRetries: 0 });

const create = (fields) =>
  client.audio.transcriptions.create({ model: "nano", file: createReadStream(recording), ...fields });

const calls = {
  json: () => create({}),
  alias: () => create({ model: "whisper-1" }),
  text: () => create({ response_format: "text" }),
  srt: () => create({ language: "en", response_format: "srt" }),
  vtt: () => create({ language: "en", response_format: "vtt" }),
  segments: () => create({ language: "en", response_format: "verbose_json" }),
  words: () =>
    create({ language: "en", response_format: "verbose_json", timestamp_granularities: ["segment", "word"] }),
  stream: async () => collected(await create({ stream: true })),
  translation: () =>
    client.audio.translations.create({ model: "nano", file: createReadStream(recording) }),
  models: async () => (await client.models.list()).data,
  model: () => client.models.retrieve("nano"),
  unknown_model: () => create({ model: "absent" }),
  bad_field: () => create({ temperature: 2 }),
};

async function collected(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

async function outcome(call) {
  try {
    return { value: await call() };
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    const { status, code, param, type, requestID } = error;
    return { raised: error.constructor.name, status, code, param, type, requestID };
  }
}

const outcomes = {};
for (const [name, call] of Object.entries(calls)) outcomes[name] = await outcome(call);
process.stdout.write(JSON.stringify(outcomes));
