// Who is logged in and what this person may do here; the way back in when the session ends; the cover when nobody is there.

import { useEffect, useState } from "./preact.mjs";
import { get, post, remove, setGate } from "./server.js";

/** Without a key or a move of the pointer for so long, the page is covered and asks for nothing: the session runs out. */
const IDLE_MS = 15 * 60_000;
const IDLE_CHECK_MS = 5_000;

/** The answer of /api/session; null: not known yet. `may` is missing as long as nobody is logged in. */
let facts = null;
/** Why the page is covered: "" (it is not), "login", "idle". */
let cover = "";
let used = Date.now();
/** How often the cover has gone. */
let turn = 0;
/** What lets a request go on that waits for the cover to go. */
const waiting = new Set();
const listeners = new Set();

function change(nextFacts, nextCover) {
  [facts, cover] = [nextFacts, nextCover];
  used = Date.now();
  if (!cover) {
    turn += 1;
    waiting.forEach((goOn) => goOn());
    waiting.clear();
  }
  listeners.forEach((listener) => listener());
}

/** Whether the session allows any of these actions. The server decides; what it would refuse is not offered. */
export const may = (...actions) => actions.some((action) => facts?.may?.includes(action));

/** Whether the page is covered, and asks for nothing. */
export const isCovered = () => cover !== "";

/** {facts, cover}, drawn again when they change. */
export function useSession() {
  const [, draw] = useState(0);
  useEffect(() => {
    const changed = () => draw((turn) => turn + 1);
    listeners.add(changed);
    return () => listeners.delete(changed);
  }, []);
  return { facts, cover };
}

/** Asks the server who is logged in. */
export async function learn() {
  const answer = await get("api/session", undefined, true);
  change(answer, answer.may ? "" : "login");
}

/** Logs in by `body`; Problem if it is refused. `arrive` goes where one goes on; then what waited goes on. */
export async function logIn(path, body, arrive = () => {}) {
  const answer = await post(path, body, true);
  arrive();
  // What is behind the cover belongs to somebody else.
  if (facts?.may && facts.user !== answer.user) location.reload();
  else change(answer, answer.may ? "" : "login");
}

/** Ends the session, and forgets what is on the page. */
export async function logOut() {
  const answer = await remove("api/session");
  location.assign(answer?.logout_url ?? new URL(".", document.baseURI));
}

/** Somebody is there again; the session may have run out. */
export const wake = () => learn();

/** Waits until the page is not covered, or the request is not wanted any more. */
const uncovered = (signal) =>
  new Promise((goOn) => {
    waiting.add(goOn);
    signal?.addEventListener("abort", () => waiting.delete(goOn) && goOn());
  });

setGate({
  enter: (signal) => (cover ? uncovered(signal) : undefined),
  refused: (signal) => {
    if (cover !== "login") change(facts, "login");
    return uncovered(signal);
  },
  turn: () => turn,
});

for (const event of ["keydown", "pointerdown", "pointermove", "wheel"]) {
  addEventListener(event, () => { if (!cover) used = Date.now(); }, { passive: true, capture: true });
}
setInterval(() => {
  if (facts?.user && !cover && Date.now() - used > IDLE_MS) change(facts, "idle");
}, IDLE_CHECK_MS);
