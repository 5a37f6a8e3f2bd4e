// The list of studies: filters as you type, any order, as many rows as there are, new ones as they arrive.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./preact.mjs";
import { Failure, copyText, isTyping, lazily } from "./parts.js";
import { may, useSession } from "./session.js";
import { ChoiceBar, Totals, patientHash, useChoice } from "./choice.js";
import { COLUMNS, filtersOf, tableUrl, wantedColumns } from "./columns.js";
import { TAGS, text, texts } from "./dicom.js";
import { FilterInput, Saved } from "./filters.js";
import { FIELDS, ORDER } from "./first.js";
import { Grid } from "./grid.js";
import { go, hashOf, here } from "./location.js";
import { openViewer } from "./ohif.js";
import { follow, get } from "./server.js";
import { Summary } from "./series.js";
import { Windows } from "./windows.js";
import { t } from "./words.js";

const ColumnsDialog = lazily(async () => (await import("./columns_dialog.js")).ColumnsDialog);

const BreakGlass = lazily(async () => (await import("./break_glass.js")).BreakGlass);

const MARK = { name: "mark", kind: "mark", wide: 0.3 };
/** Of a row with a thumbnail. */
const TALL_PX = 52;
const ROW_PX = 34;
/** Pixels of a column of width 1, at least. */
const COLUMN_PX = 84;

/** The list that was left last: {asked, windows}. */
let left = null;

const keyOf = (row) => text(row, TAGS.study);

export function Studies({ query }) {
  const typed = Object.fromEntries(COLUMNS.map(({ name }) => [name, query.get(name) ?? ""]));
  const { facts: { user } } = useSession();
  const order = query.get("order") ?? ORDER;
  const [columns, setColumns] = useState(wantedColumns);
  const filters = String(filtersOf(typed));
  const asked = String(new URLSearchParams([...new URLSearchParams(filters), ["order", order], ...FIELDS,
    ...(columns.some(({ isArrival }) => isArrival) ? [["arrivals", "true"]] : [])]));
  const [version, setVersion] = useState(0);
  const [selected, setSelected] = useState(null);
  const [isChoosing, setChoosing] = useState(false);
  const [isBreaking, setBreaking] = useState(false);
  const choice = useChoice(keyOf);
  const firstFilter = useRef(null);
  const windows = useMemo(() => {
    const ask = async ({ position, after, limit }, signal) => {
      const place = new URLSearchParams({ ...(after ? { after } : { position }), limit });
      const { studies, arrivals, next } = await get(`api/studies?${asked}&${place}`, signal);
      arrivals?.forEach((arrival, at) => { studies[at].arrival = arrival; });
      return { rows: studies, next };
    };
    const count = (signal) => get(`api/studies/totals?${filters}`, signal);
    const changed = () => setVersion((before) => before + 1);
    return left?.asked === asked ? left.windows.reopen(ask, count, changed) : new Windows(ask, count, keyOf, changed, !filters);
  }, [asked]);
  const latest = useRef(windows);
  const shown = useRef(windows);
  if (!windows.isLoading) shown.current = windows;
  // Before the grid looks for its rows: they would be asked for twice.
  useLayoutEffect(() => {
    latest.current = windows;
    windows.refresh();
    return () => {
      windows.close();
      left = { asked, windows };
    };
  }, [windows]);
  useEffect(() => follow(["stored", "deleted", "restored", "corrected", "study_quiet", "study_complete", "study_reopened"], () => latest.current.refresh()), []);
  useLayoutEffect(() => {
    const pressed = (event) => {
      if (isTyping(event) || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
      if (event.key === "/") {
        event.preventDefault();
        firstFilter.current?.focus();
      }
      if (event.key === "ArrowDown" && ["BODY", "MAIN"].includes(document.activeElement.tagName)) document.querySelector(".grid").focus();
      if (!selected) return;
      if (event.key === "o" && may("retrieve")) openViewer(keyOf(selected), texts(selected, TAGS.modalities));
      if (event.key === "y") copyText(keyOf(selected));
      if (event.key === "p" && text(selected, TAGS.patientId)) location.hash = patientHash(selected);
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
  const sort = (column) => visit({ order: order === column.order ? `-${column.order}` : order === `-${column.order}` ? "" : column.order });

  const drawn = [MARK, ...columns];
  const firstText = columns.find(({ filter }) => filter === "text" || filter === "date");
  const head = html`
    <div class="row head" role="row" aria-rowindex="1">${drawn.map((column) => {
      const direction = order === column.order ? "ascending" : order === `-${column.order}` ? "descending" : undefined;
      return html`<span role="columnheader" aria-sort=${direction} class=${column.kind ?? ""}>${column.order
        ? html`<button type="button" onClick=${() => sort(column)}>${t(column.name)}${direction ? (direction === "ascending" ? " ▲" : " ▼") : ""}</button>`
        : column === MARK ? "✓" : t(column.name)}</span>`;
    })}</div>
    <div class="row filters" role="row" aria-rowindex="2">${drawn.map((column) => html`<span role="gridcell">${column.filter && html`<${FilterInput} key=${column.name}
      column=${column} value=${typed[column.name]} changed=${(name, value) => visit({ [name]: value })} element=${column === firstText ? firstFilter : undefined} />`}</span>`)}</div>`;
  const current = shown.current;
  const cells = (row) => [html`<span aria-hidden="true">${choice.has(keyOf(row)) ? "☑" : "☐"}</span>`, ...columns.map((column) => column.of(row))];
  const isTall = columns.some(({ name }) => name === "Thumbnail");
  const wide = drawn.reduce((sum, column) => sum + column.wide, 0);
  return html`<div class="studies"><h1 class="unseen">${t("studies")}</h1>
    <div class="bar">
      <${Saved} query=${query} visit=${(wanted) => go(["studies"], wanted)}>
        <button type="button" onClick=${() => setChoosing(true)}>${t("columns")}</button><a class="button" download href=${tableUrl(columns, filters, order)}>CSV</a>${user && may("break-glass") && html`<button type="button" onClick=${() => setBreaking(true)}>${t("glass.begin")}</button>`}<//>
      <${Totals} windows=${current} />
      ${!filters && current.isCounted && current.total === 0 && html`<p>${t("studies.none")} ${may("store") && html`<a href=${hashOf(["upload"])}>${t("upload")}</a>`}</p>`}
      <${Failure} error=${windows.error} />
      <${ChoiceBar} choice=${choice} columns=${columns} order=${order} />
    </div>
    <div class=${selected ? "split" : "split alone"} style=${{ "--list": `${Math.round(wide * COLUMN_PX)}px` }}>
      <${Grid} windows=${current} version=${version} label=${t("studies")} columns=${drawn} head=${head} selected=${selected && keyOf(selected)}
        cells=${cells} select=${setSelected} open=${(row) => go(["study", keyOf(row)])} marks=${choice} rowHeight=${isTall ? TALL_PX : ROW_PX} />
      ${selected && html`<${Summary} key=${keyOf(selected)} row=${selected} close=${() => setSelected(null)} />`}
    </div>
    ${isBreaking && html`<${BreakGlass} close=${() => setBreaking(false)} />`}
    ${isChoosing && html`<${ColumnsDialog} columns=${columns} changed=${() => setColumns(wantedColumns())} close=${() => setChoosing(false)} />`}
  </div>`;
}
