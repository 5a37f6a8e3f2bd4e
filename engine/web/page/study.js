// A study: what it is, who sent it, its series and instances, and what can be done with it.

import { html, useEffect, useLayoutEffect, useState } from "./preact.mjs";
import { Action, Copy, Dialog, Failure, Loading, copyText, isTyping, lazily, useAnswer } from "./parts.js";
import { patientHash } from "./choice.js";
import { TAGS, bytesOf, dateOf, pathOf, text, texts, timeOf } from "./dicom.js";
import { Instances } from "./instances.js";
import { listHash } from "./location.js";
import { openViewer, useViewer, viewerHref } from "./ohif.js";
import { OtherStudies } from "./patient.js";
import { senderOf } from "./senders.js";
import { Send } from "./sending.js";
import { SeriesCard, seriesOf, titleOf } from "./series.js";
import { follow, get, getDicom, remove, urlOf } from "./server.js";
import { may } from "./session.js";
import { AvailabilityNote, Conflicts, Correct, Corrections, Hold, HoldNote, Senders } from "./study_facts.js";
import { ViewerLinks } from "./viewers.js";
import { moment, t } from "./words.js";

const Share = lazily(async () => (await import("./shares.js")).Share);

const CHANGES = ["stored", "deleted", "restored", "corrected", "held", "released", "study_quiet", "study_complete", "study_reopened"];
const FIELDS = ["StudyDescription", "IssuerOfPatientID"].map((name) => `&includefield=${name}`).join("");

async function rowOf(study, signal) {
  const [row] = await getDicom(`dicom-web/studies?StudyInstanceUID=${encodeURIComponent(study)}${FIELDS}`, signal);
  return row ?? null;
}

export function Study({ study }) {
  const found = useAnswer((signal) => rowOf(study, signal), [study]);
  const series = useAnswer((signal) => seriesOf(study, signal), [study]);
  const facts = useAnswer((signal) => get(`api/studies/${encodeURIComponent(study)}`, signal), [study]);
  const [dialog, setDialog] = useState(null);
  const [choice, setChoice] = useState({ series: new Set(), instances: new Set() });
  const again = () => [found, series, facts].forEach((one) => one.again());
  useEffect(() => follow(CHANGES, again, (message) => message.data.includes(`"${study}"`)), [study]);
  useKeys({
    o: () => may("retrieve") && openViewer(study, found.value ? texts(found.value, TAGS.modalities) : ""), y: () => copyText(study),
    s: () => may("send") && setDialog("send"), h: () => may("hold") && setDialog("hold"),
  });
  const row = found.value;
  if (row === null) return html`<p class="failure" role="alert">${t("study.gone")}</p>`;
  const close = () => setDialog(null);
  const choose = (kind) => (uid, isChosen) => {
    const uids = new Set(choice[kind]);
    if (isChosen) uids.add(uid);
    else uids.delete(uid);
    setChoice({ ...choice, [kind]: uids });
  };
  const one = dialog?.startsWith("series:") && (series.value ?? []).find((each) => text(each, TAGS.series) === dialog.slice(7));
  return html`<article class="study">
    <p><a href=${listHash()}>← ${t("studies")}</a></p>
    <${Failure} error=${found.error} /><${Failure} error=${facts.error} />
    ${row && html`
      <h1>${text(row, TAGS.patientName) || t("unnamed")} <small>${text(row, TAGS.description)}</small></h1>
      <${HoldNote} hold=${facts.value?.hold} /><${AvailabilityNote} row=${row} />
      <${Facts} study=${study} row=${row} facts=${facts.value} />
      <${Actions} study=${study} row=${row} choice=${choice} clear=${() => setChoice({ series: new Set(), instances: new Set() })} open=${setDialog} />`}
    <h2>${t("series")}</h2>
    <${Loading} isLoading=${series.isLoading && !series.value} /><${Failure} error=${series.error} />
    <ul class="series wide">${(series.value ?? []).map((each) => {
      const uid = text(each, TAGS.series);
      return html`<li key=${uid}><input type="checkbox" aria-label=${t("choose.series", { name: titleOf(each) })} checked=${choice.series.has(uid)} onChange=${(event) => choose("series")(uid, event.currentTarget.checked)} />
        <${SeriesCard} study=${study} series=${each} />${may("retrieve") && html`<button type="button" onClick=${() => setDialog(`series:${uid}`)}>${t("instances")}</button>`}</li>`;
    })}</ul>
    ${facts.value && html`<${Conflicts} study=${study} conflicts=${facts.value.conflicts} changed=${again} />
      <${Corrections} corrections=${facts.value.corrections} changed=${again} /><${Senders} senders=${facts.value.senders} />`}
    ${row && html`<${OtherStudies} row=${row} />`}
    ${dialog === "send" && html`<${Send} what=${chosenOf(study, choice)} close=${close} />`}
    ${dialog === "share" && html`<${Share} what=${sharedOf(study, choice)} title=${[text(row, TAGS.patientName) || t("unnamed"), text(row, TAGS.description), ...series.value.filter((one) => choice.series.has(text(one, TAGS.series))).map(titleOf)].filter(Boolean).join(" · ")} close=${close} />`}
    ${dialog === "hold" && html`<${Hold} studies=${[study]} hold=${facts.value?.hold ?? null} close=${close} changed=${again} />`}
    ${dialog === "correct" && html`<${Correct} study=${study} row=${row} close=${close} changed=${again} />`}
    ${dialog === "delete" && html`<${Delete} study=${study} row=${row} close=${close} />`}
    ${one && html`<${Instances} study=${study} series=${text(one, TAGS.series)} title=${titleOf(one)} chosen=${choice.instances} choose=${choose("instances")} close=${close} />`}
  </article>`;
}

function useKeys(keys) {
  useLayoutEffect(() => {
    const pressed = (event) => {
      const work = keys[event.key];
      if (!work || isTyping(event) || event.ctrlKey || document.querySelector("dialog[open]")) return;
      event.preventDefault();
      work();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
}

function Facts({ study, row, facts }) {
  const pairs = [
    [t("PatientID"), text(row, TAGS.patientId)], [t("PatientBirthDate"), dateOf(text(row, TAGS.birthDate))], [t("PatientSex"), text(row, TAGS.sex)],
    [t("StudyDate"), `${dateOf(text(row, TAGS.studyDate))} ${timeOf(text(row, TAGS.studyTime))}`], [t("AccessionNumber"), text(row, TAGS.accession)],
    [t("ReferringPhysicianName"), text(row, TAGS.referring)], [t("StudyID"), text(row, TAGS.studyId)],
    [t("InstitutionName"), [...new Set((facts?.series ?? []).map((one) => one.institution).filter(Boolean))].join(", ")],
    [t("size"), facts && t("study.counts", { series: facts.series.length, images: facts.instances, bytes: bytesOf(facts.bytes) })],
    [t("arrival"), (facts?.senders ?? []).map(senderOf).join("; ")],
    [t("state"), facts?.state && t("study.state", { state: t(`study.${facts.state.state}`), why: t(`study.${facts.state.reason}`), since: facts.state.since ? moment(facts.state.since) : "" })],
    [t("received"), facts && moment(facts.senders.map((one) => one.last_received).sort().at(-1))],
  ];
  return html`<dl class="facts">${pairs.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value || "–"}</dd></div>`)}
    <div class="long"><dt>Study Instance UID</dt><dd>${study} <${Copy} text=${study} /></dd></div></dl>`;
}

/** What the buttons work on: the chosen series and instances, or the study. */
function chosenOf(study, { series, instances }) {
  return series.size || instances.size ? { series: [...series], instances: [...instances] } : { studies: [study] };
}

/** What a share is of: the chosen series and nothing else, or the study. */
function sharedOf(study, { series }) {
  return series.size ? { series: [...series].map((uid) => ({ study, series: uid })) } : { studies: [study] };
}

function Actions({ study, row, choice, clear, open }) {
  const count = choice.series.size + choice.instances.size;
  const download = count ? `api/download?${new URLSearchParams({ series: [...choice.series].join(","), instances: [...choice.instances].join(",") })}` : `${pathOf(study)}?accept=application/zip`;
  const viewer = useViewer();
  return html`<p class="buttons">
    ${count === 0 && may("retrieve") && html`<a class="button main" href=${viewerHref(viewer, study, texts(row, TAGS.modalities))}>${t("view")}</a>`}
    ${may("retrieve") && html`<a class="button" href=${urlOf(download)} download>${t("download")}</a>`}
    ${may("send") && html`<button type="button" onClick=${() => open("send")}>${t("send")}</button>`}
    ${count > 0 && html`<span role="status">${t("chosen", { series: choice.series.size, instances: choice.instances.size })}</span><button type="button" onClick=${clear}>${t("choose.none")}</button>`}
    ${may("share") && !choice.instances.size && html`<button type="button" onClick=${() => open("share")}>${t("share")}</button>`}
    ${count === 0 && html`
      ${may("hold") && html`<button type="button" onClick=${() => open("hold")}>${t("hold")}</button>`}
      ${may("correct") && html`<button type="button" onClick=${() => open("correct")}>${t("correct")}</button>`}
      <a class="button" href=${patientHash(row)}>${t("same.patient")}</a>
      ${may("retrieve") && html`<${ViewerLinks} study=${study} />`}
      ${may("delete") && html`<button type="button" class="danger" onClick=${() => open("delete")}>${t("delete")}</button>`}`}
  </p>`;
}

/** A whole study goes only when its patient's ID is typed: no slip of the hand deletes one. */
function Delete({ study, row, close }) {
  const [typed, setTyped] = useState("");
  const wanted = text(row, TAGS.patientId) || study;
  const [reason, setReason] = useState("");
  const erase = async () => {
    await remove(pathOf(study) + (reason && `?reason=${encodeURIComponent(reason)}`));
    close();
    location.hash = listHash();
  };
  const trash = useAnswer(async (signal) => (may("restore") ? get("api/trash?limit=1", signal) : null), []).value;
  return html`<${Dialog} title=${t("delete")} close=${close}>
    <p>${t("delete.about", { count: text(row, TAGS.instanceCount) })} ${trash && (trash.days ? t("delete.trash", { days: trash.days }) : t("delete.final"))}</p>
    <p><label>${t("delete.type", { text: wanted })} <input value=${typed} onInput=${(event) => setTyped(event.currentTarget.value)} autocomplete="off" /></label></p>
    <p><label>${t("reason")} <input value=${reason} maxlength="200" onInput=${(event) => setReason(event.currentTarget.value)} autocomplete="off" /></label></p>
    ${typed === wanted && html`<${Action} kind="danger" label=${t("delete")} work=${erase} />`}
  <//>`;
}
