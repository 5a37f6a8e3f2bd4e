// What is known of a study beside its attributes: who sent it, hold, conflicts, corrections with undo.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Table } from "./parts.js";
import { TAGS, bytesOf, dateOf, text, values } from "./dicom.js";
import { senderOf } from "./senders.js";
import { post } from "./server.js";
import { may } from "./session.js";
import { moment, t } from "./words.js";

/** Characters of a value in a table: enough to tell two apart. */
const VALUE_MAX = 100;
const cut = (value) => (value.length > VALUE_MAX ? `${value.slice(0, VALUE_MAX)}…` : value);

/** Attributes that people correct by hand. */
const CORRECTABLE = {
  PatientID: TAGS.patientId, PatientName: TAGS.patientName, PatientBirthDate: TAGS.birthDate, PatientSex: TAGS.sex, StudyDescription: TAGS.description,
  AccessionNumber: TAGS.accession, ReferringPhysicianName: TAGS.referring, StudyID: TAGS.studyId,
};

export function Senders({ senders }) {
  return html`<h2>${t("arrival")}</h2><${Table} label=${t("arrival")} columns=${[t("sender"), t("instances"), t("size"), t("received.first"), t("received.last")]}
    rows=${senders.map((sender) => [senderOf(sender), sender.instances, bytesOf(sender.bytes), moment(sender.first_received), moment(sender.last_received)])} />`;
}

/** Whether the study is on hold, and by whom. */
export const HoldNote = ({ hold }) => hold && html`<p class="note" role="note">${t("hold.note", { by: hold.by, since: moment(hold.since) })} ${hold.reason}</p>`;

/** That images must come from the bucket first, or cannot now. */
export function AvailabilityNote({ row }) {
  const availability = text(row, TAGS.availability);
  return availability && availability !== "ONLINE" && html`<p class="note" role="note">${t(`availability.note.${availability}`)}</p>`;
}

export function Hold({ studies, hold, close, changed }) {
  const [reason, setReason] = useState("");
  const set = (path) => async () => {
    await post(path, { studies, reason });
    changed?.();
    close();
  };
  return html`<${Dialog} title=${t("hold")} close=${close}>
    <p>${t("hold.about")}</p><${HoldNote} hold=${hold} />
    <p><label>${t("reason")} <input value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></label></p>
    <p class="buttons">${!hold && html`<${Action} label=${t("hold.set")} kind="main" work=${set("api/holds")} />`}
      ${hold !== null && html`<${Action} label=${t("release")} work=${set("api/holds/release")} />`}</p>
  <//>`;
}

/** Gives a study to the patient of an ID: one that is here, with that patient's name, or a new one. */
async function giveTo(patient, study, reason) {
  try {
    await post("api/corrections", { operation: "move", studies: [study], into: patient, reason });
  } catch (error) {
    if (error.status !== 409) throw error;
    await post("api/corrections", { operation: "split", studies: [study], new: patient, reason });
  }
}

/** Attributes on which instances disagree; a click on a value corrects the study or series to it. */
export function Conflicts({ study, conflicts, changed }) {
  if (!conflicts.length) return null;
  const use = (series, name, value) => async () => {
    const place = series ? { operation: "correct_series", series, study } : { operation: "correct_study", study };
    if (name === "PatientID") await giveTo(value, study, t("conflict.reason"));
    else await post("api/corrections", { ...place, sets: { [name]: value }, reason: t("conflict.reason") });
    changed();
  };
  return html`<h2>${t("conflicts")}</h2><p class="quiet">${t("conflicts.choose")}</p><${Table} label=${t("conflicts")} columns=${[t("attributes"), t("conflict.shown"), t("conflict.others")]}
    rows=${conflicts.flatMap(({ series_instance_uid: series, attributes }) => Object.entries(attributes).map(([name, [shown, ...others]]) => [
      html`${t(name)}${series && html`<br /><code>${series}</code>`}`, html`<strong>${cut(shown)}</strong>`,
      html`<span class="buttons">${others.map((value) => (may("correct") ? html`<${Action} label=${cut(value)} work=${use(series, name, value)} />` : html`<span>${cut(value)}</span>`))}</span>`]))} />`;
}

export function Corrections({ corrections, changed }) {
  if (!corrections.length) return null;
  const undo = (number) => async () => {
    await post(`api/corrections/${encodeURIComponent(number)}/undo`);
    changed();
  };
  return html`<h2>${t("corrections")}</h2><${Table} label=${t("corrections")} columns=${[t("operation"), t("attributes"), t("time"), t("by"), t("reason"), ""]}
    rows=${corrections.map((one) => [t(`operation.${one.operation}`), Object.entries(one.sets).map(([name, value]) => html`<div>${t(name)}: ${cut(value) || "–"}</div>`), moment(one.made), one.by, one.reason,
      one.undone_by ? t("undone") : may("correct") && html`<${Action} label=${t("undo")} work=${undo(one.number)} />`])} />`;
}

const textOf = (row, tag) => {
  const [value] = values(row, tag);
  return value && typeof value === "object" ? [value.Alphabetic, value.Ideographic, value.Phonetic].map((group) => group ?? "").join("=").replace(/=+$/, "") : text(row, tag);
};

/** Corrects attributes of one study. What is stored stays as it is; answers and retrievals have the new values. */
export function Correct({ study, row, close, changed }) {
  const before = Object.fromEntries(Object.entries(CORRECTABLE).map(([name, tag]) => [name, name === "PatientBirthDate" ? dateOf(textOf(row, tag)) : textOf(row, tag)]));
  const [after, setAfter] = useState(before);
  const [reason, setReason] = useState("");
  const changes = Object.entries(after).filter(([name, value]) => value !== before[name]);
  const correct = async () => {
    if (after.PatientID !== before.PatientID) await giveTo(after.PatientID, study, reason);
    const others = changes.filter(([name]) => name !== "PatientID");
    const sets = Object.fromEntries(others.map(([name, value]) => [name, name === "PatientBirthDate" ? value.replaceAll("-", "") : value]));
    if (others.length) await post("api/corrections", { operation: "correct_study", study, sets, reason });
    changed();
    close();
  };
  return html`<${Dialog} title=${t("correct")} close=${close}><p>${t("correct.about")}</p>
    <div class="form">${Object.entries(after).map(([name, value]) => html`<label key=${name}>${t(name)} <input value=${value} onInput=${(event) => setAfter({ ...after, [name]: event.currentTarget.value })} /></label>`)}
      <label>${t("reason")} <input value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></label></div>
    <p class="buttons">${changes.length > 0 && html`<${Action} label=${t("correct.do", { count: changes.length })} kind="main" work=${correct} />`}</p>
  <//>`;
}
