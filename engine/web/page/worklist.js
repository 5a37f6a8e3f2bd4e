// What modalities have to do on a day, and why the list of one of them is empty.

import { html, useRef, useState } from "./preact.mjs";
import { Dialog, Failure, Loading, Table, lazily, useAnswer, useEvery } from "./parts.js";
import { dateOf, daysAgo, nameOf, timeOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { get } from "./server.js";
import { may } from "./session.js";
import { language, moment, t } from "./words.js";
import "./words_worklist.js";

const EVERY_MS = 15_000;
const PAUSE_MS = 400;
const ROWS = 500;
const STATION = "ScheduledStationAETitle";
const DAY = "ScheduledProcedureStepStartDate";
const TEXTS = [STATION, "Modality", "PatientName", "PatientID", "AccessionNumber"];

const number = (value) => value.toLocaleString(language());
const today = () => dateOf(daysAgo(0));

const Matching = lazily(async () => (await import("./matching.js")).Matching);
const Workitems = lazily(async () => (await import("./workitems.js")).Workitems);
const Workitem = lazily(async () => (await import("./workitems.js")).One);
const Messages = lazily(async () => (await import("./messages.js")).Messages);

/** The views of the hospital's side, each with the action that it takes. */
const VIEWS = { list: [List, "worklist"], workitems: [Workitems, "workitem"], matching: [Matching, "correct"], messages: [Messages, "manage"] };

export function Worklist({ view }) {
  const names = Object.keys(VIEWS).filter((name) => may(VIEWS[name][1]));
  const name = names.includes(view) ? view : names[0];
  return html`<section class="page-part"><h1>${t("worklist")}</h1>
    ${names.length > 1 && html`<nav class="tabs" aria-label=${t("worklist")}>${names.map((one) => html`<a href=${hashOf(["worklist", one])} aria-current=${one === name ? "page" : undefined}>${t(`worklist.${one}`)}</a>`)}</nav>`}
    <${VIEWS[name][0]} /></section>`;
}

function List() {
  const [typed, setTyped] = useState({ [DAY]: today() });
  const [filters, setFilters] = useState({ [DAY]: today() });
  const timer = useRef(0);
  const set = (name, value) => {
    const next = { ...typed, [name]: value };
    setTyped(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setFilters(next), PAUSE_MS);
  };
  return html`<div><p class="quiet">${t("worklist.about")}</p>
    <form class="fields" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label>${t("worklist.day")} <input type="date" value=${typed[DAY]} onInput=${(event) => set(DAY, event.currentTarget.value)} /></label>
      ${TEXTS.map((name) => html`<label>${t(`worklist.${name}`)} <input type="search" maxlength="64" autocomplete="off" spellcheck=${false} value=${typed[name] ?? ""} onInput=${(event) => set(name, event.currentTarget.value)} /></label>`)}
      <label><input type="checkbox" checked=${Boolean(typed.all)} onChange=${(event) => set("all", event.currentTarget.checked)} /> ${t("worklist.all")}</label></form>
    <${Entries} filters=${filters} />
    <${Why} /></div>`;
}

/** What is typed, as keys of a query: names are found by their beginning. */
function queryOf(filters) {
  const query = new URLSearchParams({ limit: ROWS });
  for (const [name, value] of Object.entries(filters)) {
    const text = String(value).trim();
    if (!text || value === false) continue;
    query.set(name, name === DAY ? text.replaceAll("-", "") : name === "PatientName" && !/[*?]/.test(text) ? `${text}*` : text);
  }
  return query;
}

function Entries({ filters }) {
  const { value, error, isLoading, again } = useAnswer((signal) => get(`api/worklist?${queryOf(filters)}`, signal), [filters]);
  useEvery(EVERY_MS, again);
  const [step, setStep] = useState(null);
  const entries = value?.entries ?? [];
  return html`<div><${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    ${value && html`<p class="quiet" role="status">${t("worklist.count", { count: number(entries.length) + (entries.length === ROWS ? "+" : "") })}</p>
    <${Table} label=${t("worklist")} empty=${t("worklist.none")} columns=${[t("worklist.time"), t(`worklist.${STATION}`), t("worklist.Modality"), t("worklist.PatientName"), t("worklist.PatientID"), t("worklist.AccessionNumber"), t("worklist.procedure"), t("state")]} rows=${entries.map((one) => rowOf(one, setStep))} />`}
    ${step && html`<${Step} number=${step} close=${() => setStep(null)} />`}</div>`;
}

/** A scheduled step with its other faces: what modalities reported of it, and the workitems of its request. */
function Step({ number, close }) {
  const { value, error, isLoading } = useAnswer((signal) => get(`api/worklist/steps/${number}`, signal), [number]);
  const [uid, setUid] = useState(null);
  const list = (name, rows) => html`<h3>${t(name)}</h3><${Table} label=${t(name)} empty=${t("worklist.nothing")} columns=${[t("workitems.step"), t("state")]} rows=${rows} />`;
  return html`<${Dialog} title=${value?.RequestedProcedureDescription || t("worklist.step")} close=${close}><${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    ${value && html`<dl class="facts">${[
      [t("worklist.time"), beginOf(value)], [t(`worklist.${STATION}`), [value[STATION]].flat().join(", ")], [t("worklist.Modality"), value.Modality],
      [t("worklist.PatientName"), nameOf({ Alphabetic: value.PatientName })], [t("worklist.PatientID"), value.PatientID], [t("worklist.AccessionNumber"), value.AccessionNumber], [t("state"), statusOf(value.ScheduledProcedureStepStatus)],
    ].filter(([, text]) => text).map(([name, text]) => html`<div><dt>${name}</dt><dd>${text}</dd></div>`)}</dl>
    ${list("worklist.performed", value.performed.map((one) => [one.by || one.SOPInstanceUID, t(`workitems.${one.PerformedProcedureStepStatus}`)]))}
    ${list("worklist.of.step", value.workitems.map((one) => [html`<button type="button" aria-haspopup="dialog" onClick=${() => setUid(one.SOPInstanceUID)}>${one.ProcedureStepLabel}</button>`, t(`workitems.${one.ProcedureStepState}`)]))}`}
    ${uid && html`<${Workitem} uid=${uid} close=${() => setUid(null)} />`}<//>`;
}

const statusOf = (status) => (t(`step.${status}`) === `step.${status}` ? status : t(`step.${status}`));

const beginOf = (one) => `${dateOf(one[DAY])} ${timeOf(one.ScheduledProcedureStepStartTime)}`.trim() || "–";

const rowOf = (one, open) => [
  html`<button type="button" aria-haspopup="dialog" aria-label=${t("worklist.open", { time: beginOf(one) })} onClick=${() => open(one.step)}>${beginOf(one)}</button>`,
  [one[STATION]].flat().join(", ") || html`<span class="state waiting">${t("worklist.no.station")}</span>`,
  one.Modality, nameOf({ Alphabetic: one.PatientName }), html`<a href=${hashOf(["patient"], { PatientID: one.PatientID })}>${one.PatientID}</a>`, one.AccessionNumber, one.RequestedProcedureDescription,
  statusOf(one.ScheduledProcedureStepStatus),
];

/** The last query of a station, key by key. */
function Why() {
  const [aet, setAet] = useState("");
  const [asked, setAsked] = useState("");
  const { value, error, isLoading } = useAnswer(async (signal) => asked && get(`api/worklist/why?aet=${encodeURIComponent(asked)}`, signal), [asked]);
  const submit = (event) => {
    event.preventDefault();
    setAsked(aet.trim());
  };
  const choose = (title) => {
    setAet(title);
    setAsked(title);
  };
  return html`<div><h2>${t("why")}</h2><${Stations} choose=${choose} /><form class="buttons" onSubmit=${submit}>
      <label>${t(`worklist.${STATION}`)} <input type="text" required maxlength="16" autocomplete="off" spellcheck=${false} value=${aet} onInput=${(event) => setAet(event.currentTarget.value)} /></label> <button type="submit">${t("why.explain")}</button></form>
    <${Loading} isLoading=${Boolean(asked) && isLoading} /><${Failure} error=${error} />${value && !isLoading && html`<${Reasons} facts=${value} />`}</div>`;
}

/** Who asked, and who should have. Who sees one station's list only is not told. */
function Stations({ choose }) {
  const { value, again } = useAnswer(async (signal) => (await get("api/worklist/stations", signal)).stations, []);
  useEvery(EVERY_MS, again);
  return value?.length > 0 && html`<${Table} label=${t("why.stations")} columns=${[t(`worklist.${STATION}`), t("why.last"), t("why.host"), t("why.got"), ""]} rows=${value.map((one) => [
    one.aet, one.asked ? moment(one.asked) : html`<span class="state waiting">${t("why.silent")}</span>`, one.host || "–", one.matches === null ? "–" : number(one.matches),
    html`<button type="button" aria-label=${t("why.explain.of", { aet: one.aet })} onClick=${() => choose(one.aet)}>${t("why.explain")}</button>`])} />`;
}

function Reasons({ facts }) {
  const hidden = Object.entries(facts.hidden).map(([state, count]) => `${number(count)} ${statusOf(state.toUpperCase())}`).join(", ");
  return html`<div role="status"><p>${facts.asked ? t("why.asked", { aet: facts.aet, time: moment(facts.asked), host: facts.host, count: number(facts.matches_then) }) : t("why.never", { aet: facts.aet })}
      <br />${t("why.now", { count: number(facts.matches_now), scheduled: number(facts.scheduled), lost: number(facts.without_station) })}${hidden && html`<br />${t("why.hidden", { hidden })}`}${Boolean(facts.out_of_role) && html`<br />${t("why.role", { count: number(facts.out_of_role) })}`}</p>
    <${Table} label=${t("why")} empty=${t("why.no.keys")} columns=${[t("why.key"), t("value"), t("why.alone"), t("why.without"), t("why.others")]}
      rows=${facts.keys.map((key) => [t(`worklist.${key.keyword}`) === `worklist.${key.keyword}` ? key.keyword : t(`worklist.${key.keyword}`), key.value, number(key.entries), number(key.without_it), key.others_have.map((other) => other || t("why.empty")).join(", ")])} /></div>`;
}
