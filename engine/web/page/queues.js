// What goes on in the background: jobs that send and pull, commitment reports, webhooks, routes and rules. How far, what failed, again, no more.

import { html, useRef, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, Table, useAnswer, useEvery } from "./parts.js";
import { bytesOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { get, post } from "./server.js";
import { language, moment, t } from "./words.js";
import "./words_upkeep.js";

const EVERY_MS = 3000;
const ROWS = 100;
const STATES = ["running", "waiting", "failed", "done", "cancelled"];
const VIEWS = { jobs: Jobs, commitments: Commitments, webhooks: () => Receivers({ kind: "webhooks" }), outbox: () => Receivers({ kind: "outbox" }) };

export function Queues({ view }) {
  const name = view in VIEWS ? view : "jobs";
  return html`<section class="page-part"><h1>${t("queues")}</h1>
    <nav class="tabs" aria-label=${t("queues")}>${Object.keys(VIEWS).map((one) => html`<a href=${hashOf(["queues", one])} aria-current=${one === name ? "page" : undefined}>${t(`queues.${one}`)}</a>`)}</nav>
    <${VIEWS[name]} />
  </section>`;
}

const isActive = (job) => job.state === "waiting" || job.state === "running";
const number = (value) => value.toLocaleString(language());

function Jobs() {
  const [state, setState] = useState("");
  const [offset, setOffset] = useState(0);
  const [chosen, setChosen] = useState(new Set());
  const [job, setJob] = useState(null);
  const latest = useRef({ path: "", value: null });
  const ask = async (signal) => {
    const path = `api/jobs?limit=${ROWS}&offset=${offset}${state && `&state=${state}`}`;
    const unless = latest.current.path === path ? `&unless=${latest.current.value.version}` : "";
    const value = await get(path + unless, signal);
    if (!value.unchanged) latest.current = { path, value };
    return latest.current.value;
  };
  const { value, error, isLoading, again } = useAnswer(ask, [state, offset]);
  useEvery(EVERY_MS, again);
  const jobs = value?.jobs ?? [];
  const counts = value?.counts ?? {};
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const show = (name) => {
    setState(name);
    setOffset(0);
    setChosen(new Set());
  };
  const change = (what, body) => async () => {
    await post(`api/jobs/${what}`, body);
    setChosen(new Set());
    again();
  };
  const choose = (id) => setChosen((before) => (before.has(id) ? new Set([...before].filter((one) => one !== id)) : new Set([...before, id])));
  const ids = [...chosen];
  const active = (counts.waiting ?? 0) + (counts.running ?? 0);
  return html`<div><${Failure} error=${error} />
    <p class="buttons" role="group" aria-label=${t("state")}><button type="button" aria-pressed=${!state} onClick=${() => show("")}>${t("queues.all")} ${number(all)}</button>
      ${STATES.map((name) => html`<button type="button" aria-pressed=${state === name} onClick=${() => show(name)}>${t(`state.${name}`)} ${number(counts[name] ?? 0)}</button>`)}</p>
    <p class="buttons">
      ${ids.length > 0 && html`<${Action} label=${t("queues.retry.chosen", { count: ids.length })} work=${change("retry", { ids })} />
        <${Action} label=${t("queues.cancel.chosen", { count: ids.length })} confirm=${t("sure")} work=${change("cancel", { ids })} />`}
      ${!ids.length && counts.failed > 0 && html`<${Action} label=${t("retry.all", { count: number(counts.failed) })} work=${change("retry", { state: "failed" })} />`}
      ${!ids.length && active > 0 && html`<${Action} label=${t("cancel.all", { count: number(active) })} confirm=${t("sure")} work=${async () => { await post("api/jobs/cancel", { state: "waiting" }); await post("api/jobs/cancel", { state: "running" }); again(); }} />`}
    </p>
    <${Loading} isLoading=${isLoading && !value} />
    ${value && html`<${Table} label=${t("queues.jobs")} empty=${t("queues.none")}
      columns=${[t("queues.choose"), t("job"), t("state"), t("progress"), t("began"), t("by"), t("queues.actions")]}
      rows=${jobs.map((one) => [
        html`<input type="checkbox" aria-label=${t("queues.choose.one", { job: `${t(`job.${one.kind}`)} ${one.peer}` })} checked=${chosen.has(one.id)} onChange=${() => choose(one.id)} />`,
        html`${t(`job.${one.kind}`)} <strong>${one.peer}</strong><br /><small>${sizeOf(one)}</small>`,
        html`<span class=${`state ${one.state}`}>${t(`state.${one.state}`)}</span>${one.error && html`<br /><small>${one.error.slice(0, 160)}</small>`}${one.state === "waiting" && one.attempts > 0 && one.due ? html`<br /><small>${t("queues.next", { date: moment(one.due), attempts: one.attempts })}</small>` : ""}`,
        html`<${Progress} job=${one} />`, moment(one.created), html`${one.by}${one.reason && html`<br /><small>${one.reason}</small>`}`,
        html`<span class="buttons"><button type="button" onClick=${() => setJob(one.id)}>${t("details")}</button>
          ${(one.state === "failed" || one.state === "cancelled") && html`<${Action} label=${t("retry")} work=${change("retry", { ids: [one.id] })} />`}
          ${isActive(one) && html`<${Action} label=${t("cancel")} work=${change("cancel", { ids: [one.id] })} />`}</span>`])} />
      <p class="buttons">${offset > 0 && html`<button type="button" onClick=${() => setOffset(Math.max(0, offset - ROWS))}>${t("newer")}</button>`}
        ${value.more && html`<button type="button" onClick=${() => setOffset(offset + ROWS)}>${t("older")}</button>`}</p>`}
    ${job && html`<${Details} job=${job} close=${() => setJob(null)} />`}</div>`;
}

/** What a job is about, in few words. */
function sizeOf({ work, bytes }) {
  const parts = ["studies", "series", "instances"].filter((name) => work[name]).map((name) => `${t(name)}: ${number(work[name].length ?? work[name])}`);
  const filters = Object.keys(work.filters ?? {});
  return [...parts, ...(filters.length ? [filters.join(", ")] : []), ...(bytes ? [bytesOf(bytes)] : [])].join(" · ");
}

function Progress({ job }) {
  const total = job.total || 0;
  return html`<progress max=${total || 1} value=${job.completed} aria-label=${t("progress")}></progress><br /><small>${number(job.completed)} / ${total ? number(total) : "?"}${job.failed_count ? html`, <span class="state failed">${t("failed", { count: number(job.failed_count) })}</span>` : ""}</small>`;
}

function Details({ job, close }) {
  const { value, error, again } = useAnswer((signal) => get(`api/jobs/${encodeURIComponent(job)}`, signal), [job]);
  useEvery(EVERY_MS, again);
  const failed = Object.entries(value?.failed ?? {});
  return html`<${Dialog} title=${t("details")} close=${close}><${Failure} error=${error} />
    ${value && html`<dl class="facts">${[
      [t("job"), `${t(`job.${value.kind}`)} ${value.peer}`], [t("state"), t(`state.${value.state}`)], [t("progress"), html`<${Progress} job=${value} />`], [t("size"), bytesOf(value.bytes)],
      [t("began"), moment(value.created)], [t("queues.started"), moment(value.started)], [t("queues.ended"), moment(value.ended)], [t("by"), value.by], [t("reason"), value.reason || "–"], [t("queues.attempts"), value.attempts],
    ].map(([name, fact]) => html`<div><dt>${name}</dt><dd>${fact}</dd></div>`)}</dl>
    ${value.error && html`<p class="failure">${value.error}</p>`}
    ${value.remarks.map((remark) => html`<p class="quiet">${remark}</p>`)}
    ${(value.work.studies ?? []).slice(0, 20).map((study) => html`<p>${t("study")} <a href=${hashOf(["study", study])} onClick=${close}><code>${study}</code></a></p>`)}
    ${failed.length > 0 && html`<h3>${t("failed", { count: number(value.failed_count) })}</h3><${Table} label=${t("failed", { count: value.failed_count })} columns=${["SOP Instance UID", t("reason")]} rows=${failed.map(([uid, reason]) => [html`<code>${uid}</code>`, reason])} />`}`}<//>`;
}

function Commitments() {
  const { value, error, isLoading, again } = useAnswer((signal) => get("api/commitments?limit=500", signal), []);
  useEvery(EVERY_MS, again);
  const rows = value?.commitments ?? [];
  return html`<div><p class="quiet">${t("commitments.about")}</p><${Failure} error=${error} /><${Loading} isLoading=${isLoading && !value} />
    ${rows.length > 0 && html`<p class="buttons"><${Action} label=${t("commitments.retry", { count: rows.length })} work=${async () => { await post("api/commitments/retry", {}); again(); }} /></p>`}
    ${value && html`<${Table} label=${t("queues.commitments")} empty=${t("commitments.none")} columns=${["AE", t("instances"), t("received"), t("queues.attempts"), t("commitments.next"), t("reason"), t("queues.actions")]}
      rows=${rows.map((one) => [one.calling_ae_title, number(one.instances), moment(one.received), one.attempts, one.next_attempt ? moment(one.next_attempt) : "–", one.error || "–",
        html`<span class="buttons"><${Action} label=${t("retry")} work=${async () => { await post("api/commitments/retry", { ids: [one.id] }); again(); }} />
          <${Action} label=${t("drop")} kind="danger" confirm=${t("commitments.drop.sure")} work=${async () => { await post(`api/commitments/${encodeURIComponent(one.id)}/drop`); again(); }} /></span>`])} />`}</div>`;
}

function Receivers({ kind }) {
  const { value, error, isLoading, again } = useAnswer((signal) => get(`api/${kind}`, signal), [kind]);
  useEvery(EVERY_MS, again);
  const ask = (one, what) => async () => { await post(`api/${kind}/${encodeURIComponent(one.name)}/${what}`); again(); };
  return html`<div><p class="quiet">${t(`${kind}.about`)}</p><${Failure} error=${error} /><${Loading} isLoading=${isLoading && !value} />
    ${value && html`<${Table} label=${t(`queues.${kind}`)} empty=${t(`${kind}.none`)} columns=${[t("webhooks.name"), t("state"), t("webhooks.delivered"), t("queues.attempts"), t("outbox.skipped"), t("time"), t("reason"), t("queues.actions")]}
      rows=${value[kind].map((one) => [one.name, html`<span class=${`state ${one.state === "parked" ? "failed" : ""}`}>${t(`state.${one.state}`)}</span>`, number(one.delivered), one.attempts ?? 0, number(one.skipped ?? 0), moment(one.updated), one.error || "–",
        html`<span class="buttons">${one.state !== "delivering" && html`<${Action} label=${t("retry")} work=${ask(one, "resume")} />`}
          ${one.skipped > 0 && html`<${Action} label=${t("outbox.resend")} work=${ask(one, "resend")} />`}</span>`])} />`}</div>`;
}
