// The view of the uploads: how far they are, and what became of each file that has a reason.

import { html, useEffect, useReducer, useRef } from "./preact.mjs";
import { bytesOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { uploads } from "./uploads.js";
import { language, t } from "./words.js";

/** Of one kind; the counts have all. */
const ROWS_MAX = 200;
const NEXT_ROWS = 5;

/** Draws again with the next frame after a change, however many changes there were. */
function useUploads() {
  const [, again] = useReducer((turn) => turn + 1, 0);
  useEffect(() => {
    let frame = 0;
    const changed = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        again();
      });
    };
    uploads.listeners.add(changed);
    changed(); // what happened since it was drawn
    return () => {
      uploads.listeners.delete(changed);
      cancelAnimationFrame(frame);
    };
  }, []);
}

export function Upload() {
  useUploads();
  const files = useRef(null);
  const folder = useRef(null);
  const choose = (event) => {
    uploads.add(event.currentTarget.files);
    event.currentTarget.value = "";
  };
  const { counts, isPaused, isAway, searching, total, refused, warned } = uploads;
  const done = total - counts.waiting;
  return html`<section class="page-part"><h1>${t("upload")}</h1>
    <p class="drop">${t("upload.about")}</p>
    <p class="buttons">
      <button type="button" class="main" onClick=${() => files.current.click()}>${t("upload.files")}</button>
      <button type="button" onClick=${() => folder.current.click()}>${t("upload.folder")}</button>
      <input hidden type="file" multiple ref=${files} aria-label=${t("upload.files")} onChange=${choose} />
      <input hidden type="file" webkitdirectory ref=${folder} aria-label=${t("upload.folder")} onChange=${choose} />
      ${counts.waiting > 0 && html`<button type="button" onClick=${() => uploads.pause(!isPaused)}>${t(isPaused ? "resume" : "pause")}</button>`}
      ${refused.length > 0 && html`<button type="button" onClick=${() => uploads.again()}>${t("retry.all", { count: refused.length })}</button>`}
      ${total > 0 && html`<button type="button" onClick=${() => uploads.clear()}>${t(counts.waiting ? "cancel" : "upload.clear")}</button>`}
      ${counts.stored + counts.warned > 0 && html`<a class="button" href=${hashOf(["studies"])}>${t("upload.show")}</a>`}
    </p>
    ${total > 0 && html`
      <p role="status">${t("upload.state", numbers({ done, total, ...counts, bytes: bytesOf(uploads.bytes) }))}
        ${searching > 0 && html` ${t("upload.searching")}`}${isPaused && html` ${t("upload.paused")}`}</p>
      ${isAway && html`<p class="failure" role="alert">${t("upload.away")}</p>`}
      <progress max=${total} value=${done} aria-label=${t("upload")}></progress>
      <${Files} label=${t("state.refused")} state="refused" files=${refused} />
      <${Files} label=${t("state.warned")} state="warned" files=${warned} />
      <${Files} label=${t("state.running")} state="waiting" files=${[...uploads.running, ...uploads.next(NEXT_ROWS)]} />`}
  </section>`;
}

const numbers = (counts) => Object.fromEntries(Object.entries(counts).map(([name, value]) => [name, typeof value === "number" ? value.toLocaleString(language()) : value]));

function Files({ label, state, files }) {
  if (!files.length) return null;
  return html`<h2>${label}</h2><div class="scrolled" tabindex="0"><table aria-label=${label}>
    <thead><tr><th scope="col">${t("file")}</th><th scope="col" class="count">${t("size")}</th><th scope="col">${state === "waiting" ? t("state") : t("reason")}</th></tr></thead>
    <tbody>${files.slice(0, ROWS_MAX).map((file) => html`<tr key=${file.number}><td class="value">${file.name}</td><td class="count">${file.size === undefined ? "" : bytesOf(file.size)}</td>
      <td class=${`state ${state}`}>${state !== "waiting" ? file.reason : uploads.running.has(file) ? html`<progress max="1" value=${file.sent} aria-label=${file.name}></progress>` : t("state.waiting")}</td></tr>`)}</tbody>
  </table></div>${files.length > ROWS_MAX && html`<p class="quiet">${t("upload.more", { count: files.length - ROWS_MAX })}</p>`}`;
}
