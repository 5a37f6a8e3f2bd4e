// What one types into the filters of the list, and filters that are kept in this browser.

import { html, useEffect, useRef, useState } from "./preact.mjs";
import { lazily } from "./parts.js";
import { mistakeIn } from "./columns.js";
import { t } from "./words.js";

/** Who types fast asks for the last letter only. What was asked before is broken off. */
const KEYSTROKE_MS = 30;
const KEPT = "filters";

const SavedDialog = lazily(async () => (await import("./saved_dialog.js")).SavedDialog);

/** The date is a word, so that the filter means the same tomorrow. */
const COMMON = [
  ["saved.today", { StudyDate: "today" }], ["saved.week", { StudyDate: "7d" }], ["saved.ct", { ModalitiesInStudy: "CT", StudyDate: "month" }],
  ["saved.mr", { ModalitiesInStudy: "MR", StudyDate: "month" }], ["saved.all", {}],
];

/** Filters of one's own: [{name, query}]. */
function keptFilters() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(kept) ? kept.filter((one) => typeof one?.name === "string" && typeof one.query === "string") : [];
  } catch {
    return [];
  }
}

/** Buttons of the common filters and one's own; `visit(query)`, `query`: what is in the filters now. */
export function Saved({ query, visit, children }) {
  const [kept, setKept] = useState(keptFilters);
  const [isOpen, setOpen] = useState(false);
  const keep = (filters) => {
    localStorage.setItem(KEPT, JSON.stringify(filters));
    setKept(filters);
  };
  return html`<nav aria-label=${t("saved")}>
    ${COMMON.map(([name, filters]) => html`<button type="button" onClick=${() => visit(new URLSearchParams(filters))}>${t(name)}</button>`)}
    ${kept.map((one) => html`<button type="button" class="own" onClick=${() => visit(new URLSearchParams(one.query))}>${one.name}</button>`)}
    <button type="button" onClick=${() => setOpen(true)}>${t("saved.edit")}</button>${children}
    ${isOpen && html`<${SavedDialog} query=${query} kept=${kept} keep=${keep} close=${() => setOpen(false)} />`}
  </nav>`;
}

/** The filter of a column; tells what is typed when nobody has typed for a moment. */
export function FilterInput({ column, value, changed, element }) {
  const [typed, setTyped] = useState(value);
  const timer = useRef(0);
  useEffect(() => {
    if (!timer.current) setTyped(value);
  }, [value]);
  const label = t("filter", { column: t(column.name) });
  if (column.filter === "sex") {
    return html`<select aria-label=${label} value=${value} onChange=${(event) => changed(column.name, event.currentTarget.value)}>
      ${["", "F", "M", "O"].map((sex) => html`<option value=${sex} selected=${sex === value}>${sex}</option>`)}</select>`;
  }
  const type = (event) => {
    const next = event.currentTarget.value;
    setTyped(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      timer.current = 0;
      changed(column.name, next);
    }, KEYSTROKE_MS);
  };
  const mistake = mistakeIn(column, typed);
  const id = `mistake-${column.name}`;
  return html`<input type="search" ref=${element} value=${typed} onInput=${type} aria-label=${label} aria-invalid=${mistake ? "true" : undefined} aria-describedby=${mistake ? id : undefined}
      title=${column.filter === "date" ? t("dates.about") : undefined} placeholder=${column.filter === "date" ? t("filter.date") : column.filter === "list" ? "CT, MR" : ""} autocomplete="off" spellcheck=${false} />
    ${mistake && html`<small class="failure" role="alert" id=${id}>${t(mistake)}</small>`}`;
}
