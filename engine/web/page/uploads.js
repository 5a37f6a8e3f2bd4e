// Uploads to the archive, by STOW-RS: one request a file, so that each has its own progress and its own reason.
//
//     found (folders, zip archives) ──► waiting ──► sending ──► stored | warned | refused
//                                          ▲           │            (skipped: nothing to store, as a DICOMDIR)
//                                          └───────────┘ paused, or the server is not there
//
// Of a hundred thousand files only those that are not done yet, and those with a reason, are kept.

import { loginNeeded, urlOf } from "./server.js";
import { t } from "./words.js";

const PARALLEL = 4;
const RETRY_MS = 3000;
/** How often one file is sent to a server that does not answer. */
const TRIES_MAX = 5;
const NESTED_MAX = 2;
const HEAD_BYTES = 132;
/** Directories of media, and what file managers leave behind. */
const SKIPPED = /(^|\/)(dicomdir|\.ds_store|thumbs\.db|desktop\.ini|\._[^/]*)$|(^|\/)__macosx\//i;

/** All uploads of this page; they go on while one looks at other views. */
class Uploads {
  constructor() {
    this.listeners = new Set();
    this.running = new Set();
    /** Files so far. */
    this.count = 0;
    this.clear();
  }

  clear() {
    for (const file of this.running) file.request?.abort();
    this.running.clear();
    this.queue = [];
    this.at = 0;
    this.generation = (this.generation ?? 0) + 1;
    this.counts = { waiting: 0, stored: 0, warned: 0, refused: 0, skipped: 0 };
    this.refused = [];
    this.warned = [];
    this.bytes = 0;
    this.isPaused = false;
    this.isAway = false;
    this.searching = 0;
    this.tell();
  }

  get total() {
    return Object.values(this.counts).reduce((sum, count) => sum + count, 0);
  }

  tell() {
    for (const changed of this.listeners) changed();
  }

  /** Files that are here already. */
  add(files) {
    for (const file of files) this.put({ name: file.webkitRelativePath || file.name, size: file.size, open: async () => file });
    this.go();
  }

  /** Files and folders of a drop; folders are read while the first files are sent. */
  async addDropped(transfer) {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.length) {
      this.add([...transfer.files]);
      return;
    }
    await this.search(async () => {
      for (const entry of entries) await this.walk(entry);
    });
  }

  async search(work) {
    const { generation } = this;
    this.searching += 1;
    try {
      await work();
    } finally {
      if (generation === this.generation) this.searching -= 1;
      this.go();
    }
  }

  async walk(entry) {
    const name = entry.fullPath.replace(/^\//, "");
    if (entry.isFile) {
      this.put({ name, open: () => new Promise((resolve, reject) => entry.file(resolve, reject)) });
      if (this.queue.length % 256 === 1) this.go();
      return;
    }
    const reader = entry.createReader();
    const read = () => new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    try {
      for (let some = await read(); some.length; some = await read()) for (const one of some) await this.walk(one);
    } catch (error) {
      this.put({ name, open: () => Promise.reject(error) });
    }
    this.go();
  }

  put(file) {
    this.count += 1;
    this.queue.push({ nested: 0, tries: 0, sent: 0, reason: "", ...file, number: this.count });
    this.counts.waiting += 1;
  }

  /** Files that come next. */
  next(count) {
    return this.queue.slice(this.at, this.at + count);
  }

  pause(isPaused) {
    this.isPaused = isPaused;
    // What is under way is broken off and sent again: the archive stores nothing twice.
    if (isPaused) for (const file of this.running) file.request?.abort();
    this.go();
  }

  again() {
    for (const file of this.refused) this.put({ ...file, tries: 0, reason: "" });
    this.counts.refused = 0;
    this.refused = [];
    this.go();
  }

  go() {
    while (!this.isPaused && !this.isAway && this.running.size < PARALLEL && this.at < this.queue.length) {
      const file = this.queue[this.at];
      this.at += 1;
      this.running.add(file);
      this.take(file, this.generation);
    }
    // What is done is let go, a piece at a time.
    if (this.at > 4096) this.queue.splice(0, this.at) && (this.at = 0);
    this.tell();
  }

  async take(file, generation) {
    const [state, reason] = await this.outcome(file, generation);
    if (generation !== this.generation) return;
    this.running.delete(file);
    file.request = null;
    file.sent = 0;
    if (state === "waiting") this.queue.splice(this.at, 0, file);
    else this.end(file, state, reason);
    this.go();
  }

  end(file, state, reason) {
    this.counts.waiting -= 1;
    this.counts[state] += 1;
    file.reason = reason;
    if (state === "stored" || state === "warned") this.bytes += file.size;
    if (state === "refused") this.refused.push(file);
    if (state === "warned") this.warned.push(file);
  }

  async outcome(file, generation) {
    if (file.refusal) return ["refused", file.refusal];
    if (SKIPPED.test(file.name)) return ["skipped", ""];
    let [content, head] = [];
    try {
      content = await file.open();
      head = new Uint8Array(await content.slice(0, HEAD_BYTES).arrayBuffer());
    } catch (error) {
      return ["refused", error.name === "Error" ? error.message : t("upload.unreadable")];
    }
    file.size = content.size;
    if (!mayBeDicom(head)) {
      if (!isZip(head)) return ["refused", t("reason.C000")];
      return this.unpack(file, content, generation);
    }
    if (this.isPaused || generation !== this.generation) return ["waiting", ""];
    const answer = await this.send(file, content);
    if (answer.status === 401) {
      await loginNeeded();
      return ["waiting", ""];
    }
    if (answer.status && answer.status !== 503 && answer.status !== 429) return verdict(answer);
    if (this.isPaused) return ["waiting", ""];
    file.tries += 1;
    if (file.tries >= TRIES_MAX) return ["refused", answer.status ? verdict(answer)[1] : t("unreachable")];
    this.isAway = true;
    setTimeout(() => {
      this.isAway = false;
      this.go();
    }, RETRY_MS);
    return ["waiting", ""];
  }

  async unpack(file, content, generation) {
    if (file.nested >= NESTED_MAX) return ["refused", t("zip.nested")];
    try {
      const { membersOf } = await import("./zip.js");
      for await (const { name, size, open, reason } of membersOf(content)) {
        if (generation !== this.generation) break;
        this.put({ name: `${file.name}/${name}`, size, open, refusal: reason, nested: file.nested + 1 });
      }
    } catch (error) {
      return ["refused", error.message];
    }
    return ["skipped", ""];
  }

  /** Sends one file; {status, text}, status 0 when there is no answer. */
  send(file, content) {
    const boundary = `filmroom-${crypto.getRandomValues(new Uint32Array(4)).join("")}`;
    const body = new Blob([`--${boundary}\r\nContent-Type: application/dicom\r\n\r\n`, content, `\r\n--${boundary}--\r\n`]);
    const request = new XMLHttpRequest();
    file.request = request;
    request.open("POST", urlOf("dicom-web/studies"));
    request.setRequestHeader("Content-Type", `multipart/related; type="application/dicom"; boundary=${boundary}`);
    request.setRequestHeader("Accept", "application/dicom+json");
    request.upload.onprogress = (event) => {
      file.sent = event.loaded / event.total;
      this.tell();
    };
    return new Promise((resolve) => {
      request.onloadend = () => resolve({ status: request.status, text: request.responseText });
      request.send(body);
    });
  }
}

/** DICOM files may begin with anything, so that is asked first. */
const isZip = (head) => head[0] === 0x50 && head[1] === 0x4b && (head[2] === 3 || head[2] === 5);

/** A file with a preamble, or a bare data set that begins with group 0002 or 0008. */
function mayBeDicom(head) {
  const isMarked = head.length >= HEAD_BYTES && String.fromCharCode(...head.subarray(128, 132)) === "DICM";
  const [first, second] = head;
  return isMarked || ((first === 2 || first === 8) && second === 0) || (first === 0 && second === 8);
}

/** What the answer says of its one file (PS3.18 10.5.3). */
function verdict({ status, text }) {
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    return ["refused", String(status)];
  }
  const [failed] = answer["00081198"]?.Value ?? answer["0008119A"]?.Value ?? [];
  const [stored] = answer["00081199"]?.Value ?? [];
  if (failed) return ["refused", reasonOf(failed, "00081197")];
  if (stored?.["00081196"]) return ["warned", reasonOf(stored, "00081196")];
  return stored ? ["stored", ""] : ["refused", answer.detail ?? String(status)];
}

function reasonOf(item, tag) {
  const hex = (item[tag]?.Value?.[0] ?? 0).toString(16).toUpperCase().padStart(4, "0");
  const words = t(`reason.${hex}`);
  return words.startsWith("reason.") ? hex : `${hex}: ${words}`;
}

export const uploads = new Uploads();
