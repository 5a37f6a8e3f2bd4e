// Small parts that every view uses.

import { html, useCallback, useEffect, useRef, useState } from "./preact.mjs";
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
    const timer = setInterval(() => document.hidden || latest.current(), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
}

export const Failure = ({ error }) =>
  error ? html`<p class="failure" role="alert">${error.status ? `${error.status}: ` : ""}${error.message}</p>` : null;

export const Loading = ({ isLoading }) => (isLoading ? html`<p class="quiet" role="status">${t("loading")}</p>` : null);

/** A table with a head; a row is a list of cells, a cell is text or a part. */
export function Table({ label, columns, rows, empty }) {
  if (!rows.length) return html`<p class="quiet">${empty ?? t("nothing")}</p>`;
  return html`<div class="scrolled" tabindex="0"><table aria-label=${label}>
    <thead><tr>${columns.map((column) => (column ? html`<th scope="col">${column}</th>` : html`<td></td>`))}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** A button that does one thing and says how it went. */
export function Action({ label, work, confirm, kind = "" }) {
  const [state, setState] = useState({ isBusy: false, error: null });
  const press = async () => {
    if (confirm && !window.confirm(confirm)) return;
    setState({ isBusy: true, error: null });
    try {
      await work();
      setState({ isBusy: false, error: null });
    } catch (error) {
      setState({ isBusy: false, error });
    }
  };
  return html`<span class="action">
    <button type="button" class=${kind} disabled=${state.isBusy} onClick=${press}>${label}</button>
    <${Failure} error=${state.error} />
  </span>`;
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
