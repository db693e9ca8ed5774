// Calls to the service: JSON, streams of events, and failures as messages.

import { byId } from "./dom.js";

const STORAGE_KEY = "alitok-key";

export class ServiceError extends Error {}

let key = null; // of this visit, if the browser blocks storage

function loadKey() {
  try {
    return sessionStorage.getItem(STORAGE_KEY) ?? key;
  } catch {
    return key;
  }
}

function storeKey(given) {
  key = given;
  try {
    sessionStorage.setItem(STORAGE_KEY, given);
  } catch {
    // Valid for this visit.
  }
}

export async function getJson(path) {
  return (await call(path)).json();
}

export async function getBlob(path) {
  return (await call(path)).blob();
}

export async function postImage(path, file, signal) {
  const form = new FormData();
  form.append("image", file, file.name ?? "image.png");
  return (await call(path, { method: "POST", body: form, signal })).json();
}

// Passes each event to the listener of its name. EventSource cannot POST, so the stream is parsed here.
export async function streamImages(request, listeners, signal) {
  const reply = await call("/v1/images/stream", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify(request),
    signal,
  });
  let done = false;
  for await (const { name, data } of events(reply.body)) {
    if (name === "error") throw new ServiceError(data.message ?? "The service could not finish these images.");
    done ||= name === "done";
    await listeners[name]?.(data);
  }
  if (!done) throw new ServiceError("The connection ended before the images were finished.");
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text = (text + value).replaceAll("\r\n", "\n");
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const event = parse(text.slice(0, end));
        text = text.slice(end + 2);
        if (event) yield event;
      }
    }
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new ServiceError("The connection broke before the images were finished.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const fields = { event: "message", data: "" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    const name = line.slice(0, colon);
    const value = line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") fields.event = value;
    if (name === "data") fields.data += value;
  }
  // A comment that keeps an idle connection open has no data.
  return fields.data ? { name: fields.event, data: JSON.parse(fields.data) } : null;
}

// Asks for the key if one is required, until it is right.
async function call(path, options = {}) {
  for (;;) {
    const headers = new Headers(options.headers);
    const stored = loadKey();
    if (stored) headers.set("Authorization", `Bearer ${stored}`);
    let reply;
    try {
      reply = await fetch(path, { ...options, headers });
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      throw new ServiceError("The service does not respond. Is it still running, and is this device online?");
    }
    if (reply.ok) return reply;
    const failure = await failureOf(reply);
    if (reply.status !== 401) throw failure;
    const given = await askForKey(failure.message);
    if (given === null) throw failure;
    storeKey(given);
  }
}

async function failureOf(reply) {
  const reason = await reply.json().then((body) => body.error?.message, () => null);
  const message = reason ?? `The service responded with status ${reply.status} and no reason.`;
  if (reply.status !== 429) return new ServiceError(message);
  const seconds = Number.parseInt(reply.headers.get("Retry-After") ?? "", 10);
  const when = Number.isFinite(seconds) ? `in ${seconds <= 1 ? "a second" : `${seconds} seconds`}` : "in a moment";
  return new ServiceError(`${message.replace(/[\s.]*$/, "")}. Try again ${when}.`);
}

let asking = null; // one dialog for all requests that wait for a key

function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    const field = byId("key-field");
    byId("key-reason").textContent = reason;
    field.value = "";
    dialog.returnValue = "";
    byId("key-cancel").onclick = () => dialog.close("");
    dialog.onclose = () => {
      asking = null;
      resolve(dialog.returnValue === "use" ? field.value.trim() : null);
      field.value = "";
    };
    dialog.showModal();
  });
  return asking;
}
