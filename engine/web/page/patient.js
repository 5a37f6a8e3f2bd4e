// A patient: all studies with their series, the latest first. And the other studies of a patient, for the view of one.

import { html, useState } from "./preact.mjs";
import { Failure, Loading, Table, lazily, useAnswer } from "./parts.js";
import { TAGS, bytesOf, dateOf, text, texts, timeOf } from "./dicom.js";
import { hashOf, listHash } from "./location.js";
import { SeriesList } from "./series.js";
import { get } from "./server.js";
import { may } from "./session.js";
import { language, t } from "./words.js";

const Share = lazily(async () => (await import("./shares.js")).Share);

/** The server's limit of one window. */
const STUDIES_MAX = 200;

/** {studies, arrivals, isMore}: those whose ID and issuer are exactly these, since an ID may look like a wildcard. */
async function studiesOf(id, issuer, signal) {
  const query = new URLSearchParams({ PatientID: id, order: "-StudyDate", limit: STUDIES_MAX, arrivals: "true" });
  for (const field of ["StudyDescription", "IssuerOfPatientID"]) query.append("includefield", field);
  const { studies, arrivals, next } = await get(`api/studies?${query}`, signal);
  const own = studies.map((study, place) => ({ study, arrival: arrivals[place] }))
    .filter(({ study }) => text(study, TAGS.patientId) === id && text(study, TAGS.issuer) === issuer);
  return { rows: own, isMore: next !== null };
}

export function Patient({ query }) {
  const [id, issuer] = [query.get("PatientID") ?? "", query.get("IssuerOfPatientID") ?? ""];
  const [isSharing, setSharing] = useState(false);
  const { value, error, isLoading } = useAnswer((signal) => studiesOf(id, issuer, signal), [id, issuer]);
  const rows = value?.rows ?? [];
  const [first] = rows;
  const sum = (name) => rows.reduce((total, { arrival }) => total + arrival[name], 0);
  const series = rows.reduce((total, { study }) => total + Number(text(study, TAGS.seriesCount)), 0);
  return html`<article class="study"><p><a href=${listHash()}>← ${t("studies")}</a></p>
    <${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    ${value && !rows.length && html`<p>${t("patient.none")}</p>`}
    ${first && html`<h1>${text(first.study, TAGS.patientName) || t("unnamed")} <small>${id}${issuer && ` (${issuer})`} · ${dateOf(text(first.study, TAGS.birthDate))} ${text(first.study, TAGS.sex)}</small></h1>
      ${may("share") && html`<p class="buttons"><button type="button" onClick=${() => setSharing(true)}>${t("share")}</button></p>`}
      ${isSharing && html`<${Share} what=${{ patient: { id, issuer } }} title=${`${text(first.study, TAGS.patientName) || t("unnamed")} · ${t("PatientID")} ${id}`} close=${() => setSharing(false)} />`}
      <p role="status">${t("patient.totals", { studies: rows.length + (value.isMore ? "+" : ""), series, images: sum("instances").toLocaleString(language()), bytes: bytesOf(sum("bytes")) })}</p>
      ${rows.map(({ study, arrival }) => html`<${OneStudy} key=${text(study, TAGS.study)} study=${study} arrival=${arrival} />`)}`}
  </article>`;
}

function OneStudy({ study, arrival }) {
  const [isOpen, setOpen] = useState(false);
  const uid = text(study, TAGS.study);
  return html`<details class="fold" onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary><strong>${dateOf(text(study, TAGS.studyDate)) || "–"}</strong> ${timeOf(text(study, TAGS.studyTime))} · ${texts(study, TAGS.modalities)} · ${text(study, TAGS.description) || t("no.description")}
      <span class="quiet"> ${t("study.counts", { series: text(study, TAGS.seriesCount), images: arrival.instances, bytes: bytesOf(arrival.bytes) })}</span></summary>
    <p><a class="button" href=${hashOf(["study", uid])}>${t("open")}</a></p>
    ${isOpen && html`<${SeriesList} study=${uid} kind="wide" />`}
  </details>`;
}

/** The other studies of the patient of a study, the latest first. */
export function OtherStudies({ row }) {
  const [id, issuer, own] = [text(row, TAGS.patientId), text(row, TAGS.issuer), text(row, TAGS.study)];
  const { value, error } = useAnswer(async (signal) => (id ? studiesOf(id, issuer, signal) : { rows: [] }), [id, issuer]);
  const others = (value?.rows ?? []).filter(({ study }) => text(study, TAGS.study) !== own);
  if (!others.length) return html`<${Failure} error=${error} />`;
  return html`<h2>${t("others")}</h2><${Table} label=${t("others")} columns=${[t("StudyDate"), t("ModalitiesInStudy"), t("StudyDescription"), t("NumberOfStudyRelatedInstances")]}
    rows=${others.map(({ study, arrival }) => [html`<a href=${hashOf(["study", text(study, TAGS.study)])}>${dateOf(text(study, TAGS.studyDate)) || "–"}</a>`, texts(study, TAGS.modalities), text(study, TAGS.description), arrival.instances])} />`;
}
