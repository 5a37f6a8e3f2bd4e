// Studies that were chosen in the list, and what can be done with all of them; the totals of what a filter finds.

import { html, useState } from "./preact.mjs";
import { lazily } from "./parts.js";
import { tableUrl } from "./columns.js";
import { TAGS, bytesOf, text } from "./dicom.js";
import { hashOf } from "./location.js";
import { urlOf } from "./server.js";
import { may } from "./session.js";
import { language, t } from "./words.js";

const Send = lazily(async () => (await import("./sending.js")).Send);
const Hold = lazily(async () => (await import("./study_facts.js")).Hold);

/** Characters of UIDs in one address; the server takes 32 KiB. */
const ADDRESS_MAX = 28_000;

/** The address of a patient; an ID alone does not tell patients of two issuers apart. */
export const patientHash = (row) =>
  hashOf(["patient"], { PatientID: text(row, TAGS.patientId), ...(text(row, TAGS.issuer) ? { IssuerOfPatientID: text(row, TAGS.issuer) } : {}) });

/** The chosen rows, by key. They stay chosen while one filters anew. */
export function useChoice(keyOf) {
  const [rows, setRows] = useState(new Map());
  return {
    rows,
    has: (key) => rows.has(key),
    toggle: (row) => {
      const next = new Map(rows);
      if (!next.delete(keyOf(row))) next.set(keyOf(row), row);
      setRows(next);
    },
    add: (some) => setRows(new Map([...rows, ...some.map((row) => [keyOf(row), row])])),
    clear: () => setRows(new Map()),
  };
}

export function ChoiceBar({ choice, columns, order }) {
  const [dialog, setDialog] = useState(null);
  const studies = [...choice.rows.keys()];
  if (!studies.length) return null;
  const close = () => setDialog(null);
  return html`<div class="buttons chosen" role="group" aria-label=${t("choice")}>
    <span role="status">${t("choice.count", { count: studies.length })}</span>
    ${studies.join(",").length <= ADDRESS_MAX
      ? html`${may("retrieve") && html`<a class="button" download href=${urlOf(`api/download?studies=${studies.join(",")}`)}>${t("download.some")}</a>`}
          <a class="button" download href=${tableUrl(columns, "", order, studies)}>CSV</a>`
      : html`<span>${t("choice.many")}</span>`}
    ${may("send") && html`<button type="button" onClick=${() => setDialog("send")}>${t("send")}</button>`}
    ${may("hold") && html`<button type="button" onClick=${() => setDialog("hold")}>${t("hold")}</button>`}
    <button type="button" onClick=${choice.clear}>${t("choose.none")}</button>
    ${dialog === "send" && html`<${Send} what=${{ studies }} close=${close} />`}
    ${dialog === "hold" && html`<${Hold} studies=${studies} close=${close} />`}
  </div>`;
}

/** How much the filters find: studies as soon as they are counted, then images and bytes. */
export function Totals({ windows }) {
  const { totals } = windows;
  if (!windows.isCounted) return html`<span class="quiet" role="status"></span>`;
  const shown = (number) => number.toLocaleString(language());
  const least = (isExact) => (isExact ? "" : `${t("at.least")} `);
  return html`<span class="quiet" role="status">${t("studies.total", { total: `${least(windows.isExact)}${shown(windows.total)}` })}${totals && ` · ${t("totals", { images: `${least(totals.is_exact)}${shown(totals.instances)}`, bytes: bytesOf(totals.bytes) })}`}</span>`;
}
