// What the page asks of the server. Every path is relative to the page, so that a proxy may put it under a prefix.

import { takeResponse } from "./first.js";
import { watch } from "./stream.js";

const ROOT = new URL(".", document.baseURI);

/** The absolute URL of a path such as "api/studies". */
export const urlOf = (path) => new URL(path, ROOT).href;

/** A problem document (RFC 9457), as an Error. */
export class Problem extends Error {
  constructor(status, detail, facts = {}) {
    super(detail);
    this.status = status;
    this.facts = facts;
  }
}

/**
 * Where requests wait: `enter` before each one, `refused` after a 401 until it may be made again; `turn` counts log-ins. Set by
 * session.js.
 */
let gate = { enter: () => undefined, refused: () => undefined, turn: () => 0 };
export const setGate = (value) => { gate = value; };

/** Waits until somebody has logged in, after a 401 of a request that was not made here. */
export const loginNeeded = () => gate.refused();

/** A fetch that waits for somebody to log in; `isLogin`: it is how one does. */
async function ask(path, options, isLogin) {
  for (;;) {
    if (!isLogin) await gate.enter(options.signal);
    const turn = gate.turn();
    const response = await fetch(urlOf(path), options);
    if (response.status !== 401 || isLogin) return response;
    // A refusal that arrives after a log-in says nothing of the session that began meanwhile.
    if (turn === gate.turn()) await gate.refused(options.signal);
  }
}

async function problemOf(response) {
  const text = await response.text();
  const retry = response.headers.get("Retry-After");
  try {
    const problem = JSON.parse(text);
    return new Problem(response.status, problem.detail || problem.title, { ...problem, retry });
  } catch {
    return new Problem(response.status, text.slice(0, 300) || response.statusText, { retry });
  }
}

/** JSON of a GET; null for 204. Throws Problem, or TypeError when the server cannot be reached. */
export async function get(path, signal, isLogin = false) {
  const early = await takeResponse(path)?.catch(() => null);
  signal?.throwIfAborted();
  const response = early?.ok ? early : await ask(path, { signal, headers: { Accept: "application/json" } }, isLogin);
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? null : response.json();
}

/** DICOM JSON of a GET; an empty list for 204. */
export async function getDicom(path, signal) {
  const response = await ask(path, { signal, headers: { Accept: "application/dicom+json" } });
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? [] : response.json();
}

/** POSTs JSON; the JSON of the answer, or null. */
export const post = (path, body, isLogin = false) => send("POST", path, body, isLogin);

async function send(method, path, body, isLogin) {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  const response = await ask(path, { method, headers, body: JSON.stringify(body ?? {}) }, isLogin);
  if (!response.ok) throw await problemOf(response);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** PUTs JSON; the JSON of the answer. */
export const put = (path, body) => send("PUT", path, body);

/** PATCHes JSON; the JSON of the answer. */
export const patch = (path, body) => send("PATCH", path, body);

/** DELETEs; the JSON of the answer, or null. */
export async function remove(path) {
  const response = await ask(path, { method: "DELETE", headers: { Accept: "application/json" } });
  if (!response.ok) throw await problemOf(response);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/**
 * Calls `changed` after events of the change feed that `concerns` is true of, at most every `pauseMs`; when somebody looks
 * again; and once the feed is followed, for what happened before. So ask first, then follow.
 */
export function follow(actions, changed, concerns = () => true, pauseMs = 1500) {
  let timer = 0;
  const ripe = () => {
    timer = 0;
    changed();
  };
  const heard = (message) => {
    if (!message.isLost && (message.isOpen || concerns(message))) timer ||= setTimeout(ripe, pauseMs);
  };
  const seen = () => document.hidden || changed();
  const leave = watch(urlOf(`changes?since=now&action=${actions.join(",")}`), heard);
  document.addEventListener("visibilitychange", seen);
  return () => {
    leave();
    document.removeEventListener("visibilitychange", seen);
    clearTimeout(timer);
  };
}
