// How does this page speak to the proxy that served it? With secrets that live in this module and nowhere else.

const TOKEN_HEADERS = ["X-Sottovoce-Token", "Authorization"];
const KEY = "openai-insecure-api-key.";
const secrets = { token: null, tokenHeader: TOKEN_HEADERS[0], apiKey: null, accountKey: null };

/**
 * What the proxy or the engine says no with; `code` is stable, the message a sentence to show.
 *
 * asks: for which secret, if for one: the proxy's token, the engine's key, or the key of an account of the proxy's.
 */
export class Refusal extends Error {
  constructor(message, code = "", status = 0, key = "key") {
    super(message);
    this.code = code;
    this.status = status;
    this.asks = status === 401 ? (code === "invalid_local_token" ? "token" : key) : null;
  }
}

/** Which header the proxy's token goes into; null where no token is asked for. */
export const tokenHeader = () => (secrets.token === null ? null : secrets.tokenHeader);

export const useApiKey = (key) => { secrets.apiKey = key; };

export const useAccountKey = (key) => { secrets.accountKey = key; };

/**
 * Use a token of the proxy; whether it was right.
 *
 * Where the token goes depends on who holds the engine's key. `/attestation` never leaves the proxy, so both headers are
 * tried there, and the token cannot reach the engine in the place of an API key.
 */
export async function useToken(token) {
  if (/[^\x21-\x7e]/.test(token)) return false; // no header can hold it
  for (const header of TOKEN_HEADERS) {
    Object.assign(secrets, { token, tokenHeader: header });
    if ((await get("/attestation")).status !== 401) return true;
  }
  secrets.token = null;
  return false;
}

/** What the proxy has verified, as JSON; raises Refusal. */
export async function attestation() {
  const response = await get("/attestation");
  if (!response.ok) throw await refusal(response);
  return response.json();
}

/** The attestation in use, as bytes to keep. */
export async function bundle() {
  const response = await get("/attestation/bundle");
  if (!response.ok) throw await refusal(response);
  return response.blob();
}

/** One transcription: the response, its head checked; raises Refusal. */
export async function transcribe(file, fields, signal) {
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  form.append("file", file, file.name);
  const headers = secretHeaders();
  if (secrets.apiKey !== null && !headers.Authorization) headers.Authorization = `Bearer ${secrets.apiKey}`;
  const response = await reach("/v1/audio/transcriptions", { method: "POST", body: form, headers, signal });
  if (!response.ok) throw await refusal(response);
  return response;
}

/** What `/v1/jobs` answers; raises Refusal. */
export async function jobs(path, method = "GET") {
  const response = await reach(`/v1/jobs${path}`, { method, headers: jobHeaders(), cache: "no-store" });
  if (!response.ok) throw await refusal(response, "account");
  return response;
}

/**
 * Submit a recording as a job, which is returned. Raises Refusal, and DOMException where `signal` ended it.
 *
 * told: called with how much of it is sent, 0 to 1. That is why this is no `fetch`, which does not know.
 */
export function submitJob(file, fields, told, signal) {
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  form.append("file", file, file.name);
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    signal.addEventListener("abort", () => request.abort());
    request.upload.addEventListener("progress", ({ loaded, total }) => told(total ? loaded / total : 0));
    request.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    request.addEventListener("error", () => reject(new Refusal("The upload broke off.", "no_answer")));
    request.addEventListener("load", () => {
      if (request.status < 400) resolve(request.response);
      else reject(refusalOf(request.response, request.status, "account"));
    });
    request.open("POST", "/v1/jobs");
    request.responseType = "json";
    for (const [name, value] of Object.entries(jobHeaders())) request.setRequestHeader(name, value);
    request.send(form);
  });
}

/** A live session's WebSocket, which carries secrets as subprotocols: a page can set no headers there. Raises Refusal. */
export function liveSocket(model) {
  const query = new URLSearchParams({ intent: "transcription", ...(model && { model }) });
  const isBearer = secrets.token !== null && secrets.tokenHeader === "Authorization";
  const protocols = ["realtime"];
  if (secrets.token !== null) protocols.push((isBearer ? KEY : "sottovoce-token.") + secrets.token);
  if (secrets.apiKey !== null && !isBearer) protocols.push(KEY + secrets.apiKey);
  try {
    return new WebSocket(`${location.origin.replace("http", "ws")}/v1/realtime?${query}`, protocols);
  } catch {
    throw new Refusal("A live session can carry no such token or key.", "invalid_api_key", 401);
  }
}

/** A whole answer, as JSON; raises Refusal. */
export const whole = (response) => response.json().catch(brokenOff);

/** The events of a stream. A stream that ends without `[DONE]` is not complete: raises Refusal. */
export async function* events(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read().catch(brokenOff);
    if (done) brokenOff();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const data of blocks.flatMap(dataOf)) {
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Refusal(event.error.message, event.error.code);
      yield event;
    }
  }
}

function brokenOff(fault) {
  if (fault?.name === "AbortError") throw fault;
  throw new Refusal("The answer broke off: what is here is not the whole text.", "stream_truncated");
}

/** The data of one block of a stream; a block may name its event too, or be a comment. */
function dataOf(block) {
  return block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice("data: ".length));
}

const get = (path) => reach(path, { headers: secretHeaders(), cache: "no-store" });

async function reach(path, options) {
  try {
    return await fetch(path, { credentials: "omit", redirect: "error", referrerPolicy: "no-referrer", ...options });
  } catch (fault) {
    if (fault.name === "AbortError") throw fault;
    throw new Refusal("The proxy does not answer.", "no_answer");
  }
}

function secretHeaders() {
  if (secrets.token === null) return {};
  const bearer = secrets.tokenHeader === "Authorization" ? "Bearer " : "";
  return { [secrets.tokenHeader]: bearer + secrets.token };
}

/** Accounts show their key in a header of its own, since Authorization may have to hold the proxy's token. */
const jobHeaders = () => ({ ...secretHeaders(), ...(secrets.accountKey !== null && { "X-Api-Key": secrets.accountKey }) });

const refusal = async (response, key) => refusalOf(await response.json().catch(() => null), response.status, key);

/** key: for which a 401 asks that is not the proxy's own. */
function refusalOf(body, status, key) {
  return new Refusal(body?.error?.message ?? `The answer was status ${status}.`, body?.error?.code, status, key);
}
