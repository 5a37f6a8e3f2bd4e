// The trash: what was deleted and can be taken back; restored, or deleted for good.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, Table, useAnswer } from "./parts.js";
import { bytesOf, dateOf, nameOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { get, post } from "./server.js";
import { moment, t } from "./words.js";

const LEVELS = { study: "study", series: "series", instance: "instances" };

/** The patient of an entry. */
function patientOf({ shown }) {
  const [Alphabetic, Ideographic, Phonetic] = (shown.PatientName ?? "").split("=");
  return nameOf({ Alphabetic, Ideographic, Phonetic }) || t("unnamed");
}

/** What is typed to delete an entry for good. */
const wordOf = (entry) => entry.shown.PatientID || entry.study_instance_uid;

export function Trash() {
  const { value, error, isLoading, again } = useAnswer((signal) => get("api/trash?values=true&limit=500", signal), []);
  const [doomed, setDoomed] = useState(null);
  const [restored, setRestored] = useState(null);
  const restore = async (entry) => {
    await post(`api/trash/${entry.number}/restore`, {});
    setRestored(entry);
    again();
  };
  const entries = value?.trash ?? [];
  return html`<${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    ${value && html`<p class="quiet">${value.days ? t("trash.about", { days: value.days }) : t("trash.off")}</p>
      <p role="status">${restored && html`${t("trash.restored")} <a href=${hashOf(["study", restored.study_instance_uid])}>${patientOf(restored)}</a>`}</p>
      <${Table} label=${t("trash")} empty=${t("trash.none")} columns=${[t("PatientName"), t("study"), t("trash.what"), t("trash.since"), t("trash.until"), t("by"), t("reason"), t("trash.act")]}
        rows=${entries.map((entry) => [
          html`${patientOf(entry)}<br /><span class="quiet">${entry.shown.PatientID}</span>`,
          html`${dateOf(entry.shown.StudyDate ?? "")} ${entry.shown.Modality || (entry.shown.ModalitiesInStudy ?? "").replaceAll("\\", ", ")}<br /><span class="quiet">${entry.shown.SeriesDescription || entry.shown.StudyDescription}</span>`,
          html`${t(LEVELS[entry.level])}<br /><span class="quiet">${t("images", { count: entry.instances })}, ${bytesOf(entry.bytes)}</span>`,
          moment(entry.since), entry.held ? t("trash.held") : entry.until ? moment(entry.until) : "–", entry.by, entry.reason,
          html`<span class="buttons"><${Action} label=${t("restore")} work=${() => restore(entry)} />
            <button type="button" class="danger" disabled=${entry.held} onClick=${() => setDoomed([entry])}>${t("trash.purge")}</button></span>`,
        ])} />
      ${value.more && html`<p class="quiet">${t("trash.more")}</p>`}
      ${entries.length > 1 && html`<p><button type="button" class="danger" onClick=${() => setDoomed(entries)}>${t("trash.empty")}</button></p>`}`}
    ${doomed && html`<${Purge} entries=${doomed} isAll=${doomed === entries} close=${() => setDoomed(null)} again=${again} />`}`;
}

/** Deletes for good once a word is typed: the patient's ID, or how many entries there are. */
function Purge({ entries, isAll, close, again }) {
  const [typed, setTyped] = useState("");
  const word = isAll ? String(entries.length) : wordOf(entries[0]);
  const purge = async () => {
    await post("api/trash/empty", isAll ? { everything: true } : { entries: entries.map((entry) => entry.number) });
    again();
    close();
  };
  return html`<${Dialog} title=${t(isAll ? "trash.empty" : "trash.purge")} close=${close}>
    <p>${isAll ? t("trash.empty.about", { count: entries.length }) : t("trash.purge.about", { name: patientOf(entries[0]), count: entries[0].instances })}</p>
    <p><label>${t("delete.type", { text: word })} <input value=${typed} onInput=${(event) => setTyped(event.currentTarget.value)} autocomplete="off" /></label></p>
    ${typed === word && html`<${Action} kind="danger" label=${t("trash.purge")} work=${purge} />`}
  <//>`;
}
