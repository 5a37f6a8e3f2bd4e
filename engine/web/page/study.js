// A study: what it is, its series with thumbnails, its instances and their tags, and what can be done with it.

import { html, useEffect, useMemo, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, Table, isTyping, useAnswer } from "./parts.js";
import { TAGS, dateOf, number, pathOf, text, texts, timeOf } from "./dicom.js";
import { go, hashOf, listHash } from "./location.js";
import { openViewer, useViewer, viewerHref } from "./ohif.js";
import { get, getDicom, post, remove, urlOf } from "./server.js";
import { t } from "./words.js";

const SERIES_FIELDS = "includefield=SeriesDescription&includefield=BodyPartExamined&includefield=SeriesDate";

/** By number, then date, then UID: as the modality counted them. */
function inOrder(series) {
  const key = (one) => [number(one, TAGS.seriesNumber), text(one, TAGS.seriesDate), text(one, TAGS.series)];
  const compare = (a, b) => (a === b || (a !== a && b !== b) ? 0 : a < b || b !== b ? -1 : 1);
  return [...series].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    return compare(a[0], b[0]) || compare(a[1], b[1]) || compare(a[2], b[2]);
  });
}

const seriesOf = async (study, signal) => inOrder(await getDicom(`${pathOf(study)}/series?${SERIES_FIELDS}`, signal));

/** What is shown beside the list for the selected study. */
export function Summary({ row, close }) {
  const study = text(row, TAGS.study);
  const [isSettled, setSettled] = useState(false);
  const viewer = useViewer();
  useEffect(() => {
    const timer = setTimeout(() => setSettled(true), 150);
    return () => clearTimeout(timer);
  }, []);
  return html`<aside class="summary" aria-label=${t("study")}>
    <header><h2>${text(row, TAGS.patientName) || t("unnamed")}</h2><button type="button" onClick=${close}>${t("close")}</button></header>
    <p>${text(row, TAGS.description) || t("no.description")}</p>
    <p class="quiet">${dateOf(text(row, TAGS.studyDate))} ${timeOf(text(row, TAGS.studyTime))} · ${texts(row, TAGS.modalities)}</p>
    <p><a class="button main" href=${viewerHref(viewer, study, texts(row, TAGS.modalities))}>${t("view")}</a>
      <a class="button" href=${hashOf(["study", study])}>${t("open")}</a></p>
    ${isSettled && html`<${SeriesList} study=${study} />`}
  </aside>`;
}

function SeriesList({ study }) {
  const { value, error, isLoading } = useAnswer((signal) => seriesOf(study, signal), [study]);
  return html`<${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    <ul class="series">${(value ?? []).map((one) => html`<li><${SeriesCard} study=${study} series=${one} /></li>`)}</ul>`;
}

function SeriesCard({ study, series }) {
  const uid = text(series, TAGS.series);
  const title = text(series, TAGS.seriesDescription) || t("series.number", { number: text(series, TAGS.seriesNumber) || "–" });
  return html`<a class="card" href=${hashOf(["view", study, uid])}>
    <img loading="lazy" width="96" height="96" alt="" src=${urlOf(`${pathOf(study, uid)}/thumbnail`)} />
    <span><strong>${title}</strong><br />
      <span class="quiet">${text(series, TAGS.modality)} ${text(series, TAGS.bodyPart)} · ${t("images", { count: text(series, TAGS.seriesInstances) })}</span></span>
  </a>`;
}

/** The page of one study. */
export function Study({ study }) {
  const found = useAnswer(async (signal) => {
    const [row] = await getDicom(`dicom-web/studies?StudyInstanceUID=${encodeURIComponent(study)}&includefield=StudyDescription`, signal);
    return row ?? null;
  }, [study]);
  const series = useAnswer((signal) => seriesOf(study, signal), [study]);
  const [dialog, setDialog] = useState(null);
  const viewer = useViewer();
  const row = found.value;
  const modalities = row ? texts(row, TAGS.modalities) : "";
  useEffect(() => {
    const pressed = (event) => {
      if (event.key !== "o" || event.ctrlKey || event.metaKey || isTyping(event) || document.querySelector("dialog[open]")) return;
      openViewer(study, modalities);
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [study, modalities]);
  if (row === null) return html`<p class="failure" role="alert">${t("study.gone")}</p>`;
  const patient = text(row, TAGS.patientId);
  const facts = [
    [t("PatientID"), patient], [t("PatientBirthDate"), dateOf(text(row, TAGS.birthDate))], [t("PatientSex"), text(row, TAGS.sex)],
    [t("StudyDate"), `${dateOf(text(row, TAGS.studyDate))} ${timeOf(text(row, TAGS.studyTime))}`], [t("AccessionNumber"), text(row, TAGS.accession)],
    [t("ReferringPhysicianName"), text(row, TAGS.referring)], [t("StudyID"), text(row, TAGS.studyId)], ["Study Instance UID", study],
  ];
  return html`<article class="study">
    <p><a href=${listHash()}>← ${t("studies")}</a></p>
    <${Failure} error=${found.error} />
    ${row && html`
      <h1>${text(row, TAGS.patientName) || t("unnamed")} <small>${text(row, TAGS.description)}</small></h1>
      <dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value || "–"}</dd></div>`)}</dl>
      <p class="buttons">
        <a class="button main" href=${viewerHref(viewer, study, modalities)}>${t("view")}</a>
        <a class="button" href=${urlOf(`${pathOf(study)}?accept=application/zip`)} download>${t("download")}</a>
        <button type="button" onClick=${() => setDialog("send")}>${t("send")}</button>
        <button type="button" onClick=${() => setDialog("hold")}>${t("hold")}</button>
        <a class="button" href=${hashOf(["studies"], { PatientID: patient })}>${t("same.patient")}</a>
        <button type="button" class="danger" onClick=${() => setDialog("delete")}>${t("delete")}</button>
      </p>`}
    <h2>${t("series")}</h2>
    <${Loading} isLoading=${series.isLoading && !series.value} /><${Failure} error=${series.error} />
    <ul class="series wide">${(series.value ?? []).map((one) => html`<li>
      <${SeriesCard} study=${study} series=${one} />
      <button type="button" onClick=${() => setDialog(text(one, TAGS.series))}>${t("instances")}</button></li>`)}</ul>
    ${dialog === "send" && html`<${Send} study=${study} close=${() => setDialog(null)} />`}
    ${dialog === "hold" && html`<${Hold} study=${study} close=${() => setDialog(null)} />`}
    ${dialog === "delete" && html`<${Delete} study=${study} row=${row} close=${() => setDialog(null)} />`}
    ${dialog && dialog.includes(".") && html`<${Instances} study=${study} series=${dialog} close=${() => setDialog(null)} />`}
  </article>`;
}

function Send({ study, close }) {
  const { value, error } = useAnswer((signal) => get("api/peers", signal), []);
  const [number, setNumber] = useState(null);
  const peers = (value?.peers ?? []).filter((peer) => peer.protocol);
  return html`<${Dialog} title=${t("send")} close=${close}><${Failure} error=${error} />
    ${number !== null
      ? html`<p role="status">${t("send.begun")} <a href=${hashOf(["queues"])}>${t("queues")}</a></p>`
      : html`<ul class="plain">${peers.map((peer) => html`<li><${Action} label=${`${peer.aet} (${peer.url || `${peer.host}:${peer.port}`})`}
          work=${async () => setNumber((await post("api/jobs", { kind: "send", peer: peer.aet, studies: [study] })).id)} /></li>`)}</ul>
        ${value && !peers.length && html`<p>${t("peers.none")}</p>`}`}
  <//>`;
}

function Hold({ study, close }) {
  const [reason, setReason] = useState("");
  const [isDone, setDone] = useState(false);
  return html`<${Dialog} title=${t("hold")} close=${close}>
    <p>${t("hold.about")}</p>
    <p><label>${t("reason")} <input value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></label></p>
    ${isDone
      ? html`<p role="status">${t("done")}</p>`
      : html`<p class="buttons"><${Action} label=${t("hold")} work=${async () => { await post("api/holds", { studies: [study], reason }); setDone(true); }} />
        <${Action} label=${t("release")} work=${async () => { await post("api/holds/release", { studies: [study], reason }); setDone(true); }} /></p>`}
  <//>`;
}

/** A whole study goes only when its patient's ID is typed: no slip of the hand deletes one. */
function Delete({ study, row, close }) {
  const [typed, setTyped] = useState("");
  const wanted = text(row, TAGS.patientId) || study;
  return html`<${Dialog} title=${t("delete")} close=${close}>
    <p>${t("delete.about", { count: text(row, TAGS.instanceCount) })}</p>
    <p><label>${t("delete.type", { text: wanted })} <input value=${typed} onInput=${(event) => setTyped(event.currentTarget.value)} autocomplete="off" /></label></p>
    ${typed === wanted && html`<${Action} kind="danger" label=${t("delete")} work=${async () => { await remove(pathOf(study)); close(); go(["studies"]); }} />`}
  <//>`;
}

function Instances({ study, series, close }) {
  const [instance, setInstance] = useState(null);
  const { value, error, isLoading } = useAnswer(
    (signal) => getDicom(`${pathOf(study, series)}/instances?limit=1000&includefield=NumberOfFrames`, signal), [series]);
  const rows = [...(value ?? [])].sort((one, other) => (number(one, TAGS.instanceNumber) || 0) - (number(other, TAGS.instanceNumber) || 0));
  return html`<${Dialog} title=${t("instances")} close=${close}>
    <${Loading} isLoading=${isLoading} /><${Failure} error=${error} />
    ${instance
      ? html`<button type="button" onClick=${() => setInstance(null)}>← ${t("instances")}</button><${TagTree} instance=${instance} />`
      : value && html`<${Table} label=${t("instances")} columns=${["#", t("frames"), "SOP Instance UID", ""]}
          rows=${rows.map((row) => {
            const uid = text(row, TAGS.instance);
            return [text(row, TAGS.instanceNumber), text(row, TAGS.frames) || "1", html`<code>${uid}</code>`,
              html`<button type="button" onClick=${() => setInstance(uid)}>${t("tags")}</button>`];
          })} />`}
  <//>`;
}

function TagTree({ instance }) {
  const { value, error, isLoading } = useAnswer((signal) => get(`api/instances/${encodeURIComponent(instance)}/tags`, signal), [instance]);
  const [wanted, setWanted] = useState("");
  const rows = useMemo(() => flat(value?.elements ?? [], 0), [value]);
  const needle = wanted.toLowerCase();
  const shown = rows.filter((row) => !needle || `${row.tag} ${row.keyword} ${row.value}`.toLowerCase().includes(needle));
  return html`<${Loading} isLoading=${isLoading} /><${Failure} error=${error} />
    <p><label>${t("search")} <input type="search" value=${wanted} onInput=${(event) => setWanted(event.currentTarget.value)} /></label>
      <span class="quiet"> ${value?.transfer_syntax_uid}</span></p>
    <div class="scrolled" tabindex="0"><table class="tags" aria-label=${t("tags")}><tbody>${shown.slice(0, 2000).map((row) => html`<tr>
      <td><code>${"\u00a0\u00a0".repeat(row.depth)}(${row.tag.slice(0, 4)},${row.tag.slice(4)})</code></td><td>${row.keyword}</td><td>${row.vr}</td><td class="value">${row.value}</td>
    </tr>`)}</tbody></table></div>`;
}

function flat(elements, depth) {
  return elements.flatMap((element) => [
    { depth, tag: element.tag, keyword: element.keyword ?? "", vr: element.vr ?? "", value: element.value ?? "" },
    ...(element.items ?? []).flatMap((item) => flat(item.elements ?? item, depth + 1)),
  ]);
}
