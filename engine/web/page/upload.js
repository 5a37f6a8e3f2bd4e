// Files to the archive, by STOW-RS: one request a file, so that each has its own progress and its own reason.

import { html, useEffect, useReducer, useRef } from "./preact.mjs";
import { bytesOf } from "./dicom.js";
import { urlOf } from "./server.js";
import { t } from "./words.js";

const PARALLEL = 3;
const SHOWN_MAX = 500;

/** All uploads of this page; they go on while one looks at other views. */
class Uploads {
  constructor() {
    this.files = [];
    this.next = 0;
    this.running = new Set();
    this.isPaused = false;
    this.listeners = new Set();
    this.counts = { waiting: 0, stored: 0, warned: 0, refused: 0 };
    this.bytes = 0;
  }

  add(files) {
    for (const file of files) this.files.push({ file, name: file.webkitRelativePath || file.name, state: "waiting", sent: 0, reason: "" });
    this.counts.waiting += files.length;
    this.go();
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    // What is under way is broken off and sent again: the archive stores nothing twice.
    if (isPaused) for (const request of this.running) request.abort();
    this.go();
  }

  again() {
    for (const one of this.files) if (one.state === "refused") this.set(one, "waiting", "");
    this.next = 0;
    this.go();
  }

  set(one, state, reason) {
    this.counts[one.state] -= 1;
    this.counts[state] += 1;
    one.state = state;
    one.reason = reason;
  }

  go() {
    while (!this.isPaused && this.running.size < PARALLEL) {
      while (this.next < this.files.length && (this.files[this.next].state !== "waiting" || this.files[this.next].isUnderWay)) this.next += 1;
      if (this.next >= this.files.length) break;
      this.send(this.files[this.next]);
    }
    for (const changed of this.listeners) changed();
  }

  send(one) {
    const boundary = `filmroom-${crypto.getRandomValues(new Uint32Array(4)).join("")}`;
    const body = new Blob([`--${boundary}\r\nContent-Type: application/dicom\r\n\r\n`, one.file, `\r\n--${boundary}--\r\n`]);
    const request = new XMLHttpRequest();
    this.running.add(request);
    one.isUnderWay = true;
    request.open("POST", urlOf("dicom-web/studies"));
    request.setRequestHeader("Content-Type", `multipart/related; type="application/dicom"; boundary=${boundary}`);
    request.setRequestHeader("Accept", "application/dicom+json");
    request.upload.onprogress = (event) => {
      one.sent = event.loaded / event.total;
      for (const changed of this.listeners) changed();
    };
    request.onloadend = () => {
      this.running.delete(request);
      one.isUnderWay = false;
      one.sent = 0;
      if (request.status) {
        const [state, reason] = outcome(request);
        if (state !== "refused") this.bytes += one.file.size;
        this.set(one, state, reason);
      } else if (!this.isPaused) this.set(one, "refused", t("unreachable"));
      if (this.isPaused) this.next = 0;
      this.go();
    };
    request.send(body);
  }
}

/** What the answer says of its one file (PS3.18 10.5.3). */
function outcome(request) {
  let answer;
  try {
    answer = JSON.parse(request.responseText);
  } catch {
    return ["refused", `${request.status}`];
  }
  const [failed] = answer["00081198"]?.Value ?? answer["0008119A"]?.Value ?? [];
  const [stored] = answer["00081199"]?.Value ?? [];
  const code = (item, tag) => {
    const hex = (item[tag]?.Value?.[0] ?? 0).toString(16).toUpperCase().padStart(4, "0");
    const words = t(`reason.${hex}`);
    return words.startsWith("reason.") ? hex : `${hex}: ${words}`;
  };
  if (failed) return ["refused", code(failed, "00081197")];
  if (stored?.["00081196"]) return ["warned", code(stored, "00081196")];
  if (stored) return ["stored", ""];
  return ["refused", answer.detail ?? `${request.status}`];
}

export const uploads = new Uploads();

/** Files of a drop, those in folders too. */
export async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  const walk = async (entry) => {
    if (entry.isFile) files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    else {
      const reader = entry.createReader();
      for (;;) {
        const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!some.length) break;
        for (const one of some) await walk(one);
      }
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}

export function Upload() {
  const [, again] = useReducer((turn) => turn + 1, 0);
  const files = useRef(null);
  const folder = useRef(null);
  useEffect(() => {
    let frame = 0;
    const changed = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        again();
      });
    };
    uploads.listeners.add(changed);
    return () => {
      uploads.listeners.delete(changed);
      cancelAnimationFrame(frame);
    };
  }, []);
  const chosen = (event) => {
    uploads.add([...event.currentTarget.files]);
    event.currentTarget.value = "";
  };
  const { counts, isPaused } = uploads;
  const total = uploads.files.length;
  const done = total - counts.waiting;
  const order = { refused: 0, warned: 1, waiting: 2, stored: 3 };
  const shown = [...uploads.files].sort((one, other) => order[one.state] - order[other.state] || Number(other.isUnderWay ?? 0) - Number(one.isUnderWay ?? 0)).slice(0, SHOWN_MAX);
  return html`<section class="page-part"><h1>${t("upload")}</h1>
    <p>${t("upload.about")}</p>
    <p class="buttons">
      <button type="button" class="main" onClick=${() => files.current.click()}>${t("upload.files")}</button>
      <button type="button" onClick=${() => folder.current.click()}>${t("upload.folder")}</button>
      <input hidden type="file" multiple ref=${files} onChange=${chosen} /><input hidden type="file" webkitdirectory ref=${folder} onChange=${chosen} />
      ${counts.waiting > 0 && html`<button type="button" onClick=${() => uploads.pause(!isPaused)}>${t(isPaused ? "resume" : "pause")}</button>`}
      ${counts.refused > 0 && html`<button type="button" onClick=${() => uploads.again()}>${t("retry")}</button>`}
    </p>
    ${total > 0 && html`
      <p role="status">${t("upload.state", { done, total, stored: counts.stored, warned: counts.warned, refused: counts.refused, bytes: bytesOf(uploads.bytes) })}</p>
      <progress max=${total} value=${done} aria-label=${t("upload")}></progress>
      <div class="scrolled" tabindex="0"><table aria-label=${t("upload.files")}>
        <thead><tr><th scope="col">${t("file")}</th><th scope="col">${t("size")}</th><th scope="col">${t("state")}</th><th scope="col">${t("reason")}</th></tr></thead>
        <tbody>${shown.map((one) => html`<tr key=${one.name}><td>${one.name}</td><td class="count">${bytesOf(one.file.size)}</td>
          <td class=${`state ${one.state}`}>${one.isUnderWay ? html`<progress max="1" value=${one.sent} aria-label=${one.name}></progress>` : t(`state.${one.state}`)}</td><td>${one.reason}</td></tr>`)}</tbody>
      </table></div>`}
  </section>`;
}
