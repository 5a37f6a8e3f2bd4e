// Reconciliation: studies without an order, orders without a study, conflicts; proposals, and links made and undone by hand.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, Table, useAnswer } from "./parts.js";
import { dateOf, daysAgo, nameOf, timeOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { get, post } from "./server.js";
import { may } from "./session.js";
import { language, moment, t } from "./words.js";
import "./words_matching.js";

const DAYS = 6;
const plain = (day) => day.replaceAll("-", "");

export function Matching() {
  const [since, setSince] = useState(dateOf(daysAgo(DAYS)));
  const [until, setUntil] = useState(dateOf(daysAgo(0)));
  const [study, setStudy] = useState(null);
  const isRange = since && until && since <= until;
  const { value, error, isLoading, again } = useAnswer(async (signal) => isRange && get(`api/reconciliation?since=${plain(since)}&until=${plain(until)}`, signal), [since, until]);
  const close = () => {
    setStudy(null);
    again();
  };
  return html`<div><p class="quiet">${t("matching.about")}</p>
    <form class="fields" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label>${t("matching.since")} <input type="date" value=${since} onInput=${(event) => setSince(event.currentTarget.value)} /></label>
      <label>${t("matching.until")} <input type="date" value=${until} onInput=${(event) => setUntil(event.currentTarget.value)} /></label></form>
    ${!isRange && html`<p class="failure" role="alert">${t("matching.range")}</p>`}
    <${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    ${value && html`<${List} name="conflicts" value=${value} columns=${[t("matching.study"), t("matching.order"), t("matching.why"), ""]} rows=${value.conflicts.map((one) => [
        html`<${Study} one=${one.study} />`, html`<${Order} one=${one.order} />`, t("matching.another"), html`<${Open} study=${one.study} open=${setStudy} />`])} />
      <${List} name="studies" value=${value} columns=${[t("matching.study"), ""]} rows=${value.studies.map((one) => [html`<${Study} one=${one} />`, html`<${Open} study=${one} open=${setStudy} />`])} />
      <${List} name="orders" value=${value} columns=${[t("matching.order")]} rows=${value.orders.map((one) => [html`<${Order} one=${one} />`])} />`}
    <${Merges} />
    ${study && html`<${One} study=${study} close=${close} conflicts=${value?.conflicts.filter((one) => one.study.StudyInstanceUID === study) ?? []} />`}</div>`;
}

const patientOf = (one) => [one.PatientID, one.IssuerOfPatientID].filter(Boolean).join(" · ");

/** Merges of patients that messages have said; each can be undone. */
function Merges() {
  const { value, error, isLoading, again } = useAnswer((signal) => get("api/merges?limit=50", signal), []);
  const [older, setOlder] = useState([]);
  const [reason, setReason] = useState("");
  const rows = [...(value?.merges ?? []), ...older.flatMap((page) => page.merges)];
  const next = (older.at(-1) ?? value)?.older;
  const undo = (number) => async () => {
    await post(`api/merges/${number}/undo`, { reason });
    setOlder([]);
    again();
  };
  const more = async () => setOlder([...older, await get(`api/merges?limit=50&before=${next}`)]);
  return html`<h2>${t("merges")}</h2><p class="quiet">${t("merges.about")}</p><${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    ${rows.some((one) => !one.undone_by) && may("correct") && html`<p class="buttons"><label>${t("merges.reason")} <input type="text" maxlength="200" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></label></p>`}
    ${value && html`<${Table} label=${t("merges")} empty=${t("merges.none")} columns=${[t("time"), t("merges.prior"), t("merges.survivor"), t("by"), ""]} rows=${rows.map((one) => [
      moment(one.time), patientOf(one.prior), patientOf(one.survivor), one.by,
      one.undone_by ? html`<strong>${t("matching.undone")}</strong> <small>${[one.undone_by, moment(one.undone), one.reason].filter(Boolean).join(" · ")}</small>`
        : may("correct") && html`<${Action} label=${t("merges.undo")} confirm=${t("sure")} work=${undo(one.number)} />`])} />`}
    ${next && html`<${Action} label=${t("more")} work=${more} />`}`;
}

function List({ name, value, columns, rows }) {
  const count = rows.length.toLocaleString(language()) + (value.more[name] ? "+" : "");
  return html`<h2>${t(`matching.${name}`)} (${count})</h2><${Table} label=${t(`matching.${name}`)} empty=${t(`matching.${name}.none`)} columns=${columns} rows=${rows} />`;
}

const Open = ({ study, open }) => html`<button type="button" aria-label=${t("matching.open", { name: nameOf({ Alphabetic: study.PatientName ?? "" }) || study.StudyInstanceUID })} onClick=${() => open(study.StudyInstanceUID)}>${t("matching.match")}</button>`;

const listOf = (value) => [value ?? []].flat().join(", ");
const bornOf = (one) => (one.PatientBirthDate ? `${t("matching.born")} ${dateOf(one.PatientBirthDate)}` : "");

function Study({ one }) {
  if (one.PatientID === undefined) return html`<code>${one.StudyInstanceUID}</code><br /><small>${t("matching.gone")}</small>`;
  return html`<a href=${hashOf(["study", one.StudyInstanceUID])}>${nameOf({ Alphabetic: one.PatientName }) || "–"}</a> <small>${[one.PatientID, bornOf(one)].filter(Boolean).join(" · ")}</small><br />
    <small>${[`${dateOf(one.StudyDate)} ${timeOf(one.StudyTime)}`.trim(), listOf(one.ModalitiesInStudy), one.StudyDescription, one.AccessionNumber && `${t("matching.accession")} ${one.AccessionNumber}`].filter(Boolean).join(" · ")}</small>`;
}

function Order({ one }) {
  return html`${nameOf({ Alphabetic: one.PatientName ?? "" }) || "–"} <small>${[one.PatientID, bornOf(one)].filter(Boolean).join(" · ")}</small><br />
    <small>${[`${dateOf(one.ScheduledProcedureStepStartDate ?? "")} ${timeOf(one.ScheduledProcedureStepStartTime ?? "")}`.trim(), one.Modality, one.RequestedProcedureDescription, one.AccessionNumber && `${t("matching.accession")} ${one.AccessionNumber}`].filter(Boolean).join(" · ")}</small>`;
}

/** One study: its links, conflicts and the orders that it may fulfil. */
function One({ study, close, conflicts }) {
  const { value, error, isLoading, again } = useAnswer((signal) => get(`api/reconciliation/studies/${encodeURIComponent(study)}`, signal), [study]);
  const [reason, setReason] = useState("");
  const [decided, setDecided] = useState([]);
  const change = (what, order) => async () => {
    await post(`api/reconciliation/${what}`, { study, order, reason });
    setDecided([...decided, order]);
    again();
  };
  const open = conflicts.filter((one) => !decided.includes(one.order.order));
  const wordOf = (prefix, text) => (t(`${prefix}.${text}`) === `${prefix}.${text}` ? text : t(`${prefix}.${text}`));
  return html`<${Dialog} title=${t("matching.title")} close=${close}><${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    ${value && html`<p><${Study} one=${value.study} /></p>
      <p class="buttons"><label>${t("reason")} <input type="text" maxlength="200" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></label></p>
      ${open.length > 0 && html`<h3>${t("matching.conflicts")}</h3><${Table} label=${t("matching.conflicts")} columns=${[t("matching.order"), ""]} rows=${open.map((one) => [html`<${Order} one=${one.order} />`,
        html`<span class="buttons"><${Action} label=${t("matching.link")} confirm=${t("sure")} work=${change("link", one.order.order)} /> <${Action} label=${t("matching.reject")} work=${change("unlink", one.order.order)} /></span>`])} />`}
      <h3>${t("matching.links")}</h3><${Table} label=${t("matching.links")} empty=${t("matching.links.none")} columns=${[t("matching.order"), ""]} rows=${value.links.map((one) => [
        html`<${Order} one=${one.order} /><br /><strong>${t(one.is_undone ? "matching.undone" : "matching.linked")}</strong> <small>${t("matching.how")} ${[wordOf("matching.rule", one.rule), one.by, moment(new Date(one.time * 1000).toISOString())].filter(Boolean).join(" · ")}</small>`,
        one.is_undone ? html`<${Action} label=${t("matching.link")} work=${change("link", one.order.order)} />` : html`<${Action} label=${t("matching.unlink")} confirm=${t("sure")} work=${change("unlink", one.order.order)} />`])} />
      <h3>${t("matching.proposals")}</h3><${Table} label=${t("matching.proposals")} empty=${t("matching.proposals.none")} columns=${[t("matching.order"), ""]} rows=${value.proposals.filter((one) => !value.links.some((link) => link.order.order === one.order.order) && !open.some((each) => each.order.order === one.order.order)).map((one) => [
        html`<${Order} one=${one.order} /><br /><strong>${t("matching.score", { score: one.score })}</strong> <small>${one.reasons.map((each) => wordOf("matching", each)).join(", ")}</small>`, html`<${Action} label=${t("matching.link")} work=${change("link", one.order.order)} />`])} />`}<//>`;
}
