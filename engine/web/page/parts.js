// Small parts that every view uses.

import { html, useCallback, useEffect, useRef, useState } from "./preact.mjs";
import { get } from "./server.js";
import { isCovered } from "./session.js";
import { t } from "./words.js";

/** What a request that is made again when `keys` change has brought: {value, error, isLoading, again}. */
export function useAnswer(ask, keys) {
  const [answer, setAnswer] = useState({ value: undefined, error: null, isLoading: true });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    setAnswer((before) => ({ ...before, isLoading: true }));
    ask(abort.signal).then(
      (value) => setAnswer({ value, error: null, isLoading: false }),
      (error) => error.name !== "AbortError" && setAnswer({ value: undefined, error, isLoading: false }),
    );
    return () => abort.abort();
  }, [...keys, turn]);
  const again = useCallback(() => setTurn((before) => before + 1), []);
  return { ...answer, again };
}

/** A part whose script is fetched when it is shown first. */
export function lazily(load) {
  let part = null;
  return (props) => {
    const { error } = useAnswer(async () => { part ??= await load(); }, []);
    return part ? html`<${part} ...${props} />` : html`<${Failure} error=${error} /><${Loading} isLoading=${!error} />`;
  };
}

/** Asks again every `everyMs`, while somebody looks. */
export function useEvery(everyMs, work) {
  const latest = useRef(work);
  latest.current = work;
  useEffect(() => {
    const timer = setInterval(() => document.hidden || isCovered() || latest.current(), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
}

/** In the place of what is not shown: if an element went, Preact would move those behind it, and they lose the focus. */
const GONE = () => html`<p hidden></p>`;

export const Failure = ({ error }) =>
  error ? html`<p class="failure" role="alert">${error.status ? `${error.status}: ` : ""}${error.message}</p>` : GONE();

export const Loading = ({ isLoading }) => (isLoading ? html`<p class="quiet" role="status">${t("loading")}</p>` : GONE());

/** A table with a head; a row is a list of cells, a cell is text or a part. */
export function Table({ label, columns, rows, empty, kind }) {
  if (!rows.length) return html`<p class="quiet">${empty ?? t("nothing")}</p>`;
  return html`<div class="scrolled" tabindex="0"><table class=${kind} aria-label=${label}>
    <thead><tr>${columns.map((column) => (column ? html`<th scope="col">${column}</th>` : html`<td></td>`))}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** A button that does one thing and says how it went; with `confirm` it asks first, in its own place. */
export function Action({ label, work, confirm, kind = "" }) {
  const [state, setState] = useState({ isBusy: false, isAsking: false, error: null });
  const element = useRef(null);
  const press = async () => {
    setState({ isBusy: true, isAsking: false, error: null });
    try {
      await work();
      setState({ isBusy: false, isAsking: false, error: null });
    } catch (error) {
      setState({ isBusy: false, isAsking: false, error });
    }
  };
  const ask = (isAsking) => setState({ isBusy: false, isAsking, error: null });
  // The focus stays where the reader is: on the answer that changes nothing, then back on the button.
  const wasAsking = useRef(false);
  useEffect(() => {
    if (state.isAsking !== wasAsking.current) element.current?.querySelector(state.isAsking ? ".keep" : "button")?.focus();
    wasAsking.current = state.isAsking;
  }, [state.isAsking]);
  if (state.isAsking) {
    return html`<span class="action asking" role="group" aria-label=${confirm} ref=${element} onKeyDown=${(event) => event.key === "Escape" && (event.preventDefault(), event.stopPropagation(), ask(false))}>
      <span>${confirm}</span> <button type="button" class=${`danger ${kind}`} onClick=${press}>${label}</button> <button type="button" class="keep" onClick=${() => ask(false)}>${t("no")}</button></span>`;
  }
  return html`<span class="action" ref=${element}>
    <button type="button" class=${kind} disabled=${state.isBusy} onClick=${confirm ? () => ask(true) : press}>${label}</button>
    <${Failure} error=${state.error} />
  </span>`;
}

/** One list of the API, as a view: `children` gets the answer, and what asks again. */
export function Listed({ path, children }) {
  const { value, error, isLoading, again } = useAnswer((signal) => get(path, signal), [path]);
  return html`<div><${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />${value && children(value, again)}</div>`;
}

/** A dialog over the page; Escape closes it. */
export function Dialog({ title, close, children }) {
  const element = useRef(null);
  useEffect(() => {
    const dialog = element.current;
    dialog.showModal();
    dialog.addEventListener("close", close);
    return () => dialog.removeEventListener("close", close);
  }, []);
  return html`<dialog ref=${element} aria-label=${title}>
    <header><h2>${title}</h2><button type="button" onClick=${() => element.current.close()}>${t("close")}</button></header>
    ${children}
  </dialog>`;
}

/** Whether a key was pressed while something is typed. */
export const isTyping = (event) =>
  /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable || event.altKey || event.metaKey;

/** Puts a text into the clipboard; also where the page has no HTTPS. */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** A button that copies a text. */
export function Copy({ text }) {
  const [isCopied, setCopied] = useState(false);
  const press = async () => {
    await copyText(text);
    setCopied(true);
  };
  return html`<button type="button" onClick=${press} onBlur=${() => setCopied(false)} aria-label=${t("copy.of", { text })}>${t(isCopied ? "copied" : "copy")}</button>`;
}
