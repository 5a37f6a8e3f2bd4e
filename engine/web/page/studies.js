// The list of studies: filters as you type, any order, as many rows as there are, new ones as they arrive.

import { html, useEffect, useMemo, useRef, useState } from "./preact.mjs";
import { Failure, isTyping } from "./parts.js";
import { TAGS, dateOf, dateRange, daysAgo, text, texts, timeOf } from "./dicom.js";
import { go, here } from "./location.js";
import { openViewer } from "./ohif.js";
import { follow, get } from "./server.js";
import { Summary } from "./series.js";
import { Grid } from "./grid.js";
import { Windows } from "./windows.js";
import { language, t } from "./words.js";

const KEYSTROKE_MS = 120;

/** The list that was left last: {asked, windows}. */
let left = null;

const keyOf = (row) => text(row, TAGS.study);

/** Filter, sort key, and what a row shows. */
const COLUMNS = [
  { name: "PatientName", order: "PatientName", of: (row) => text(row, TAGS.patientName), wide: 2.2 },
  { name: "PatientID", order: "PatientID", of: (row) => text(row, TAGS.patientId), wide: 1.3 },
  { name: "PatientBirthDate", order: "PatientBirthDate", of: (row) => dateOf(text(row, TAGS.birthDate)), isDate: true, wide: 1 },
  { name: "PatientSex", of: (row) => text(row, TAGS.sex), wide: 0.5 },
  { name: "StudyDate", order: "StudyDate", of: (row) => dateOf(text(row, TAGS.studyDate)), isDate: true, wide: 1 },
  { name: "StudyTime", of: (row) => timeOf(text(row, TAGS.studyTime)), wide: 0.6, isFixed: true },
  { name: "ModalitiesInStudy", order: "ModalitiesInStudy", of: (row) => texts(row, TAGS.modalities), wide: 0.8 },
  { name: "StudyDescription", order: "StudyDescription", of: (row) => text(row, TAGS.description), wide: 2 },
  { name: "AccessionNumber", order: "AccessionNumber", of: (row) => text(row, TAGS.accession), wide: 1.1 },
  { name: "NumberOfStudyRelatedSeries", of: (row) => text(row, TAGS.seriesCount), kind: "count", wide: 0.65, isFixed: true },
  { name: "NumberOfStudyRelatedInstances", of: (row) => text(row, TAGS.instanceCount), kind: "count", wide: 0.65, isFixed: true },
];
const SAVED = [
  ["saved.today", () => ({ StudyDate: dateOf(daysAgo(0)) })],
  ["saved.week", () => ({ StudyDate: `${dateOf(daysAgo(6))}..${dateOf(daysAgo(0))}` })],
  ["saved.ct", () => ({ ModalitiesInStudy: "CT", StudyDate: dateOf(daysAgo(0)).slice(0, 7) })],
  ["saved.mr", () => ({ ModalitiesInStudy: "MR", StudyDate: dateOf(daysAgo(0)).slice(0, 7) })],
  ["saved.all", () => ({})],
];

/** The query of /api/studies for what is typed. What is no date yet filters nothing. */
function requestOf(filters, order) {
  const query = new URLSearchParams({ order, includefield: "StudyDescription" });
  for (const column of COLUMNS) {
    const typed = (filters[column.name] ?? "").trim();
    if (!typed) continue;
    if (column.isDate) {
      const range = dateRange(typed);
      if (range) query.set(column.name, range);
    } else if (column.name === "ModalitiesInStudy" || column.name === "PatientSex") query.set(column.name, typed.toUpperCase());
    else query.set(column.name, /[*?]/.test(typed) ? typed : `${column.name === "StudyDescription" ? "*" : ""}${typed}*`);
  }
  return query;
}

export function Studies({ query }) {
  const filters = Object.fromEntries(COLUMNS.map(({ name }) => [name, query.get(name) ?? ""]));
  const order = query.get("order") ?? "-received";
  const asked = String(requestOf(filters, order));
  const [version, setVersion] = useState(0);
  const [selected, setSelected] = useState(null);
  const firstFilter = useRef(null);
  const windows = useMemo(() => {
    const ask = async ({ position, after, limit, isCounted }, signal) => {
      const place = new URLSearchParams({ ...(after ? { after } : { position }), limit, ...(isCounted ? { count: "true" } : {}) });
      const { studies, next, total } = await get(`api/studies?${asked}&${place}`, signal);
      return { rows: studies, next, total: total?.count, isExact: total?.is_exact };
    };
    const changed = () => setVersion((before) => before + 1);
    return left?.asked === asked ? left.windows.reopen(ask, changed) : new Windows(ask, keyOf, changed);
  }, [asked]);
  const shown = useRef(windows);
  if (!windows.isLoading) shown.current = windows;
  useEffect(() => {
    windows.refresh();
    const end = follow(["stored", "deleted", "corrected", "study_quiet"], () => windows.refresh());
    return () => {
      end();
      windows.close();
      left = { asked, windows };
    };
  }, [windows]);
  useEffect(() => {
    const pressed = (event) => {
      if (event.key === "/" && !isTyping(event)) {
        event.preventDefault();
        firstFilter.current?.focus();
      }
      if (event.key === "o" && selected && !event.ctrlKey && !event.metaKey && !isTyping(event) && !document.querySelector("dialog[open]")) {
        openViewer(keyOf(selected), texts(selected, TAGS.modalities));
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [selected]);

  const visit = (changes) => {
    const next = new URLSearchParams();
    const { query: now } = here();
    for (const [name, value] of Object.entries({ ...Object.fromEntries(now), ...changes })) if (value) next.set(name, value);
    go(["studies"], next, true);
  };
  const filter = (name, value) => visit({ [name]: value });
  const sort = (column) => {
    if (!column.order) return;
    visit({ order: order === column.order ? `-${column.order}` : order === `-${column.order}` ? "" : column.order });
  };
  const save = (wanted) => go(["studies"], new URLSearchParams(wanted));

  const head = html`
    <div class="row head" role="row" aria-rowindex="1">${COLUMNS.map((column) => {
      const direction = order === column.order ? "ascending" : order === `-${column.order}` ? "descending" : undefined;
      return html`<span role="columnheader" aria-sort=${direction} class=${column.kind ?? ""}>${column.order
        ? html`<button type="button" onClick=${() => sort(column)}>${t(column.name)}${direction ? (direction === "ascending" ? " ▲" : " ▼") : ""}</button>`
        : t(column.name)}</span>`;
    })}</div>
    <div class="row filters" role="row" aria-rowindex="2">${COLUMNS.map((column, place) => html`<span role="gridcell">${column.isFixed
      ? null
      : html`<${FilterInput} key=${column.name} column=${column} value=${filters[column.name]} changed=${filter}
          element=${place === 0 ? firstFilter : undefined} />`}</span>`)}</div>`;
  const current = shown.current;
  const total = current.isLoading ? "" : `${current.isExact ? "" : "> "}${current.total.toLocaleString(language())}`;
  return html`<div class="studies"><h1 class="unseen">${t("studies")}</h1>
    <div class="bar">
      <nav aria-label=${t("saved")}>${SAVED.map(([name, wanted]) => html`<button type="button" onClick=${() => save(wanted())}>${t(name)}</button>`)}</nav>
      <span class="quiet" role="status">${total && t("studies.total", { total })}</span>
      <${Failure} error=${windows.error} />
    </div>
    <div class=${selected ? "split" : "split alone"}>
      <${Grid} windows=${current} version=${version} label=${t("studies")} columns=${COLUMNS} head=${head} selected=${selected && keyOf(selected)}
        cells=${(row) => COLUMNS.map((column) => column.of(row))} select=${setSelected}
        open=${(row) => go(["study", keyOf(row)])} />
      ${selected && html`<${Summary} key=${keyOf(selected)} row=${selected} close=${() => setSelected(null)} />`}
    </div>
  </div>`;
}

/** Tells what is typed when nobody has typed for a moment. */
function FilterInput({ column, value, changed, element }) {
  const [typed, setTyped] = useState(value);
  const timer = useRef(0);
  useEffect(() => {
    if (!timer.current) setTyped(value);
  }, [value]);
  const type = (event) => {
    const next = event.currentTarget.value;
    setTyped(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      timer.current = 0;
      changed(column.name, next);
    }, KEYSTROKE_MS);
  };
  const isWrong = column.isDate && typed && !dateRange(typed);
  return html`<input type="search" ref=${element} value=${typed} onInput=${type} aria-label=${t("filter", { column: t(column.name) })}
    aria-invalid=${isWrong ? "true" : undefined} placeholder=${column.isDate ? t("filter.date") : ""} autocomplete="off" spellcheck=${false} />`;
}
