// What does a program of the user's write to reach this proxy? The same few lines in three languages.

import { tokenHeader } from "./api.js";

// The engine's operator names models, and what stands here is run: a name is a name, whatever it looks like.

/** A string of Python's and JavaScript's. */
const literal = (text) => JSON.stringify(text);

/** A word of a shell's. */
const argument = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const WRITERS = {
  python: (base, model, token) => `from openai import OpenAI

client = OpenAI(base_url="${base}", api_key="...")${token ? `
client = client.with_options(default_headers={"${token}": "..."})` : ""}
with open("recording.wav", "rb") as file:
    answer = client.audio.transcriptions.create(model=${literal(model)}, file=file)
print(answer.text)
`,
  javascript: (base, model, token) => `import fs from "node:fs";
import OpenAI from "openai";

const client = new OpenAI({
  baseURL: "${base}",
  apiKey: "...",${token ? `
  defaultHeaders: { "${token}": "..." },` : ""}
});
const file = fs.createReadStream("recording.wav");
const answer = await client.audio.transcriptions.create({ model: ${literal(model)}, file });
console.log(answer.text);
`,
  curl: (base, model, token) => `curl ${base}/audio/transcriptions \\
  -H "Authorization: Bearer ..." \\
${token ? `  -H "${token}: ..." \\\n` : ""}  --form-string ${argument(`model=${model}`)} -F response_format=text -F file=@recording.wav
`,
};

/** The example in a language. */
export function snippet(language, model) {
  const header = tokenHeader();
  return WRITERS[language](`${location.origin}/v1`, model, header === "Authorization" ? null : header);
}
