// What the page asks of the server. Every path is relative to the page, so that a proxy may put it under a prefix.

import { watch } from "./stream.js";

const ROOT = new URL(".", document.baseURI);

/** The absolute URL of a path such as "api/studies". */
export const urlOf = (path) => new URL(path, ROOT).href;

/** A problem document (RFC 9457), as an Error. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function problemOf(response) {
  const text = await response.text();
  try {
    const problem = JSON.parse(text);
    return new Problem(response.status, problem.detail || problem.title);
  } catch {
    return new Problem(response.status, text.slice(0, 300) || response.statusText);
  }
}

/** JSON of a GET; null for 204. Throws Problem, or TypeError when the server cannot be reached. */
export async function get(path, signal) {
  const response = await fetch(urlOf(path), { signal, headers: { Accept: "application/json" } });
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? null : response.json();
}

/** DICOM JSON of a GET; an empty list for 204. */
export async function getDicom(path, signal) {
  const response = await fetch(urlOf(path), { signal, headers: { Accept: "application/dicom+json" } });
  if (!response.ok) throw await problemOf(response);
  return response.status === 204 ? [] : response.json();
}

/** POSTs JSON; the JSON of the answer, or null. */
export const post = (path, body) => send("POST", path, body);

async function send(method, path, body) {
  const response = await fetch(urlOf(path), {
    method,
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(body ?? {}),
  });
  if (!response.ok) throw await problemOf(response);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

/** PUTs JSON; the JSON of the answer. */
export const put = (path, body) => send("PUT", path, body);

/** DELETEs. */
export async function remove(path) {
  const response = await fetch(urlOf(path), { method: "DELETE" });
  if (!response.ok) throw await problemOf(response);
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
