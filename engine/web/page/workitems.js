// Workitems (UPS): what AI and reading systems have to do, who does it, and what became of it; one can be cancelled.

import { html, useRef, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, Table, useAnswer, useEvery } from "./parts.js";
import { dateOf, nameOf, timeOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { get, post } from "./server.js";
import { language, moment, t } from "./words.js";
import "./words_worklist.js";

const EVERY_MS = 15_000;
const PAUSE_MS = 400;
const ROWS = 100;
const STATES = { SCHEDULED: "waiting", "IN PROGRESS": "running", COMPLETED: "done", CANCELED: "failed" };
const TEXTS = ["text", "PatientID"];

const number = (value) => value.toLocaleString(language());
const wordOf = (prefix, text) => (t(`${prefix}.${text}`) === `${prefix}.${text}` ? text : t(`${prefix}.${text}`));
const startOf = (text) => `${dateOf((text ?? "").slice(0, 8))} ${timeOf((text ?? "").slice(8, 14))}`.trim();
const State = ({ state }) => html`<span class=${`state ${STATES[state] ?? ""}`}>${wordOf("workitems", state)}</span>`;

export function Workitems() {
  const [typed, setTyped] = useState({ state: "SCHEDULED" });
  const [filters, setFilters] = useState("state=SCHEDULED");
  const [worklists, setWorklists] = useState([]);
  const [uid, setUid] = useState(null);
  const timer = useRef(0);
  const set = (name, value) => {
    const next = { ...typed, [name]: value };
    setTyped(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setFilters(queryOf(next)), TEXTS.includes(name) ? PAUSE_MS : 0);
  };
  const choice = (name, options, textOf) => html`<label>${t(`workitems.${name}`)} <select value=${typed[name] ?? ""} onChange=${(event) => set(name, event.currentTarget.value)}>
    <option value="">${t(`workitems.${name}.all`)}</option>${options.map((one) => html`<option value=${one} selected=${one === typed[name]}>${textOf(one)}</option>`)}</select></label>`;
  return html`<div><p class="quiet">${t("workitems.about")}</p>
    <form class="fields" role="search" onSubmit=${(event) => event.preventDefault()}>
      ${choice("state", Object.keys(STATES), (one) => wordOf("workitems", one))}
      ${(worklists.length > 1 || typed.worklist) && choice("worklist", worklists, (one) => one)}
      ${TEXTS.map((name) => html`<label>${t(`workitems.${name}`)} <input type="search" maxlength="64" autocomplete="off" spellcheck=${false} value=${typed[name] ?? ""} onInput=${(event) => set(name, event.currentTarget.value)} /></label>`)}</form>
    <${Rows} key=${filters} filters=${filters} open=${setUid} tell=${setWorklists} />
    ${uid && html`<${One} uid=${uid} close=${() => setUid(null)} />`}</div>`;
}

/** What is chosen. */
function queryOf(typed) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(typed)) {
    const text = value.trim();
    if (text) query.set(name, text);
  }
  return String(query);
}

function Rows({ filters, open, tell }) {
  const [later, setLater] = useState([]);
  const first = useAnswer(async (signal) => {
    const page = await get(`api/workitems?limit=${ROWS}&${filters}`, signal);
    tell(page.worklists);
    return page;
  }, [filters]);
  useEvery(EVERY_MS, () => later.length || first.again());
  const pages = [first.value, ...later].filter(Boolean);
  const next = pages.at(-1)?.next;
  const more = async () => setLater([...later, await get(`api/workitems?limit=${ROWS}&after=${encodeURIComponent(next)}&${filters}`)]);
  const counts = first.value?.counts;
  return html`<div><${Loading} isLoading=${first.isLoading && !first.value} /><${Failure} error=${first.error} />
    ${first.value && html`<p class="quiet" role="status">${counts && Object.keys(STATES).map((state) => `${wordOf("workitems", state)}: ${number(counts[state] ?? 0)}`).join(" · ")}</p>
      <${Table} label=${t("workitems")} empty=${next ? t("workitems.none.yet") : html`${t("workitems.none")} <a href="docs/workitems" target="_blank">${t("workitems.how")}</a>`} columns=${[t("workitems.start"), t("workitems.ProcedureStepLabel"), t("workitems.worklist"), t("workitems.priority"), t("worklist.PatientName"), t("worklist.PatientID"), t("state")]}
        rows=${pages.flatMap((page) => page.workitems).map((one) => rowOf(one, open))} />
      <p class="buttons">${next && html`<${Action} label=${t("workitems.more")} work=${more} />`}</p>`}</div>`;
}

const rowOf = (one, open) => [
  startOf(one.ScheduledProcedureStepStartDateTime),
  html`<button type="button" aria-haspopup="dialog" onClick=${() => open(one.SOPInstanceUID)}>${one.ProcedureStepLabel}</button>`,
  one.WorklistLabel, wordOf("workitems.priority", one.ScheduledProcedureStepPriority), nameOf({ Alphabetic: one.PatientName ?? "" }),
  one.PatientID && html`<a href=${hashOf(["patient"], { PatientID: one.PatientID })}>${one.PatientID}</a>`, html`<${State} state=${one.ProcedureStepState} />`,
];

/** One workitem; also what the dialog of a scheduled step opens. */
export function One({ uid, close }) {
  const { value, error, isLoading, again } = useAnswer((signal) => get(`api/workitems/${uid}`, signal), [uid]);
  return html`<${Dialog} title=${value?.attributes.ProcedureStepLabel ?? t("workitems.one")} close=${close}>
    <${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />${value && html`<${Facts} one=${value} again=${again} />`}<//>`;
}

const codesOf = (items) => [items ?? []].flat().map((one) => one.CodeMeaning || one.CodeValue).filter(Boolean).join(", ");

function Facts({ one, again }) {
  const values = one.attributes;
  const progress = values.ProcedureStepProgressInformationSequence?.[0] ?? {};
  const studies = [...new Set([values.StudyInstanceUID, ...(values.ReferencedRequestSequence ?? []).map((each) => each.StudyInstanceUID)].filter(Boolean))];
  const facts = [
    [t("state"), html`<${State} state=${one.state} />`], [t("workitems.start"), startOf(values.ScheduledProcedureStepStartDateTime)],
    [t("workitems.worklist"), values.WorklistLabel], [t("workitems.priority"), wordOf("workitems.priority", values.ScheduledProcedureStepPriority)],
    [t("worklist.PatientName"), nameOf({ Alphabetic: values.PatientName ?? "" })], [t("worklist.PatientID"), values.PatientID],
    [t("workitems.station"), codesOf(values.ScheduledStationNameCodeSequence) || codesOf(values.ScheduledStationClassCodeSequence)],
    [t("workitems.code"), codesOf(values.ScheduledWorkitemCodeSequence)], [t("workitems.input"), wordOf("workitems.input", values.InputReadinessState)],
    [t("progress"), [progress.ProcedureStepProgress && `${progress.ProcedureStepProgress} %`, progress.ProcedureStepProgressDescription].filter(Boolean).join(" · ")],
    [t("workitems.studies"), studies.length > 0 && studies.map((study) => html`<a href=${hashOf(["study", study])}>${study}</a> `)],
    ["SOP Instance UID", html`<code>${one.uid}</code>`],
  ];
  return html`<dl class="facts">${facts.filter(([, text]) => text).map(([name, text]) => html`<div><dt>${name}</dt><dd>${text}</dd></div>`)}</dl>
    <h3>${t("workitems.history")}</h3><${Table} label=${t("workitems.history")} columns=${[t("time"), t("workitems.what"), t("workitems.who"), t("reason")]}
      rows=${one.history.map((each) => [html`<span class="log-time">${moment(each.time)}</span>`, wordOf("workitems", each.action), each.by, each.reason])} />
    ${one.related && html`<${Steps} related=${one.related} />`}
    ${["SCHEDULED", "IN PROGRESS"].includes(one.state) && html`<${Cancel} one=${one} again=${again} />`}`;
}

const Steps = ({ related }) => related.steps.length + related.performed.length > 0 && html`<h3>${t("workitems.steps")}</h3>
  <${Table} label=${t("workitems.steps")} columns=${[t("workitems.kind"), t("workitems.step"), t("state")]} rows=${[
    ...related.steps.map((each) => [t("workitems.scheduled"), [each.ScheduledProcedureStepID, each.Modality, dateOf(each.ScheduledProcedureStepStartDate)].filter(Boolean).join(" · "), wordOf("step", each.ScheduledProcedureStepStatus)]),
    ...related.performed.map((each) => [t("workitems.performed"), each.by || each.SOPInstanceUID, wordOf("workitems", each.PerformedProcedureStepStatus)])]} />`;

function Cancel({ one, again }) {
  const [reason, setReason] = useState("");
  const [isAsked, setAsked] = useState(false);
  const cancel = async () => {
    const information = reason.trim() ? { "00741238": { vr: "LT", Value: [reason.trim()] } } : {};
    await post(`dicom-web/workitems/${one.uid}/cancelrequest`, [information]);
    setAsked(true);
    again();
  };
  return html`<h3>${t("workitems.cancel")}</h3><p class="quiet">${t(one.state === "SCHEDULED" ? "workitems.cancel.scheduled" : "workitems.cancel.progress")}</p>
    <p class="buttons"><label>${t("reason")} <input type="text" maxlength="200" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></label>
      <${Action} label=${t("workitems.cancel.do")} confirm=${t("sure")} kind="danger" work=${cancel} /></p>
    ${isAsked && html`<p role="status">${t("workitems.cancel.asked")}</p>`}`;
}
