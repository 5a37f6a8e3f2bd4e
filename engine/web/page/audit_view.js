// The audit log: who saw, changed, sent and deleted what; and whether the log itself is as it was written.

import { html, useRef, useState } from "./preact.mjs";
import { Action, Failure, Loading, Table, useAnswer } from "./parts.js";
import { hashOf } from "./location.js";
import { named } from "./secrets.js";
import { get, urlOf } from "./server.js";
import { language, moment, t } from "./words.js";
import "./words_security.js";

const KINDS = [
  "login", "logout", "query", "viewed", "sending", "sent", "received", "exported", "imported", "corrected", "merged", "held", "released", "trashed", "deleted", "shredded", "restored", "alert", "operation",
  "audit-read", "start", "stop",
];
const TEXTS = ["user", "patient", "study", "text"];
const PAUSE_MS = 400;
const PAGE_ROWS = 100;
const EXPORT_ROWS = 500;

export function Audit() {
  const [typed, setTyped] = useState({});
  const [filters, setFilters] = useState("");
  const timer = useRef(0);
  const set = (name, value) => {
    const next = { ...typed, [name]: value };
    setTyped(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setFilters(String(new URLSearchParams(Object.entries(next).filter(([, text]) => text)))), PAUSE_MS);
  };
  return html`<div><p class="quiet">${t("audit.about")}</p><${Verified} />
    <form class="fields" role="search" onSubmit=${(event) => event.preventDefault()}>
      <label>${t("audit.kind")} <select value=${typed.kind ?? ""} onChange=${(event) => set("kind", event.currentTarget.value)}><option value="">${t("audit.all")}</option>${KINDS.map((kind) => html`<option value=${kind} selected=${kind === typed.kind}>${t(`audit.${kind}`)}</option>`)}</select></label>
      ${TEXTS.map((name) => html`<label>${t(`audit.by.${name}`)} <input type="search" maxlength="200" autocomplete="off" spellcheck=${false} value=${typed[name] ?? ""} onInput=${(event) => set(name, event.currentTarget.value)} /></label>`)}
      <label>${t("audit.since")} <input type="date" value=${typed.since ?? ""} onInput=${(event) => set("since", event.currentTarget.value)} /></label>
      <label>${t("audit.until")} <input type="date" value=${typed.until ?? ""} onInput=${(event) => set("until", event.currentTarget.value)} /></label>
      <label><input type="checkbox" checked=${typed.outcome === "failure"} onChange=${(event) => set("outcome", event.currentTarget.checked ? "failure" : "")} /> ${t("audit.failures")}</label></form>
    <${Events} key=${filters} filters=${filters} /></div>`;
}

/** Events, the newest first; the server says where older ones begin. */
function Events({ filters }) {
  const [older, setOlder] = useState([]);
  const first = useAnswer((signal) => get(`api/audit?limit=${PAGE_ROWS}&${filters}`, signal), [filters]);
  const pages = [first.value, ...older].filter(Boolean);
  const next = pages.at(-1)?.older;
  const more = async () => {
    const page = await get(`api/audit?limit=${PAGE_ROWS}&before=${encodeURIComponent(next)}&${filters}`);
    setOlder([...older, page]);
  };
  return html`<div><${Loading} isLoading=${first.isLoading && !first.value} /><${Failure} error=${first.error} />
    ${first.value && !first.value.is_kept && html`<p class="failure" role="alert">${t("audit.off")}</p>`}
    ${first.value && html`<${Table} label=${t("audit")} empty=${t("audit.none")} columns=${[t("time"), t("audit.kind"), t("audit.who"), t("audit.what"), t("details")]} rows=${pages.flatMap((page) => page.events).map(rowOf)} />
      <p class="buttons">${next && html`<${Action} label=${t("audit.older")} work=${more} />`}<a class="button" download="audit.json" href=${urlOf(`api/audit?limit=${EXPORT_ROWS}&${filters}`)}>JSON</a></p>`}</div>`;
}

function rowOf(event) {
  const { who = {}, patient, kind, outcome, study } = event;
  return [
    html`<span class="log-time">${moment(event.t)}</span>`, html`${named("audit", kind)}${outcome ? html`<br /><span class="state failed">${t("audit.failed")}</span>` : ""}`,
    html`${who.name || html`<span class="log-time">${named("who", who.kind)}</span>`}<br /><small class="log-time">${who.address ?? ""}</small>`,
    html`${patient ? html`${[patient.name?.replaceAll("^", " ").trim(), patient.id].filter(Boolean).join(", ")}<br />` : ""}${study ? html`<a href=${hashOf(["study", study])}><code>${study}</code></a>` : ""}`,
    html`<small>${detailsOf(event)}</small>`,
  ];
}

const SHOWN = ["chain", "n", "t", "kind", "who", "outcome", "patient", "study"];
const DETAILS_MAX = 600;

const SENTENCES = ["action", "query", "reason", "detail"];

/** Everything else that the event says: what was done, in words; then the rest by its name. */
function detailsOf(event) {
  const others = Object.entries(event).filter(([name]) => ![...SHOWN, ...SENTENCES].includes(name)).map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`);
  return [SENTENCES.map((name) => event[name]).filter(Boolean).join(" "), ...others].filter(Boolean).join(" · ").slice(0, DETAILS_MAX);
}

/** Verifies when somebody wants it: it reads the whole log. */
function Verified() {
  const [state, setState] = useState(null);
  const verify = async () => setState(await get("api/audit/verify"));
  const count = (number) => number.toLocaleString(language());
  return html`<div>${state && html`<div class=${`verdict ${state.whole ? "good" : "bad"}`} role="status"><span class="sign" aria-hidden="true">${state.whole ? "✓" : "✕"}</span> ${t(state.whole ? "audit.whole" : "audit.broken", { count: count(state.events) })}
      ${state.signed_until && html`<br /><small>${t("audit.signed", { until: moment(state.signed_until), unsigned: count(state.unsigned) })}</small>`}
      ${state.problems.map((problem) => html`<br /><strong>${problem.place}</strong> ${problem.detail}`)}</div>`}
    <p><${Action} label=${t(state ? "audit.again" : "audit.verify")} work=${verify} /></p></div>`;
}
