// Whether all is well: the verdict with what to do, what the server does now, and its history.

import { html, useEffect, useRef, useState } from "./preact.mjs";
import { Failure, Loading, Table, useAnswer } from "./parts.js";
import { Charts } from "./charts.js";
import { bytesOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { get, urlOf } from "./server.js";
import { watch } from "./stream.js";
import { language, moment, t } from "./words.js";
import "./words_upkeep.js";

const LIVE_POINTS = 300;
const HIDDEN_VALUES = 200;

export const number = (value) => (value ?? 0).toLocaleString(language(), { maximumFractionDigits: value < 10 ? 1 : 0 });
const milliseconds = (seconds) => (seconds === null || seconds === undefined ? "–" : `≤ ${number(seconds * 1000)}`);
/** p50 and p99, or that there was nothing. */
const latencyOf = ({ p50, p99 }) => (p50 === null ? t("health.idle") : `p50 ${milliseconds(p50)} · p99 ${milliseconds(p99)} ms`);
const dateOf = (seconds) => moment(new Date(seconds * 1000).toISOString());

/** The newest status, and points of the last minutes for charts. */
function useLive() {
  const [live, setLive] = useState({ status: null, isLost: false, points: [] });
  useEffect(
    () =>
      watch(urlOf("api/live"), ({ data, isLost, isOpen }) => {
        if (isOpen) return undefined;
        if (isLost) return setLive((before) => ({ ...before, isLost: true }));
        const status = JSON.parse(data);
        const point = { time: status.time, ...status.rates, associations: status.now.associations, store: status.latency.store, free: status.now.free_bytes };
        setLive((before) => ({ status, isLost: false, points: before.points.at(-1)?.time === point.time ? before.points : [...before.points, point].slice(-LIVE_POINTS) }));
      }),
    [],
  );
  return live;
}

export function Health() {
  const { status, isLost, points } = useLive();
  return html`<section class="page-part"><h1>${t("health")}</h1>
    ${isLost && html`<p class="failure" role="alert">${t("health.lost")}</p>`}
    <${Loading} isLoading=${!status && !isLost} />
    ${status && html`<${Verdict} status=${status} /><${Tiles} status=${status} />`}
    <${Charts} points=${points} />
    ${status?.window_s >= 1 && html`<${Activity} status=${status} />`}
    ${status && html`<${Errors} errors=${status.errors} />`}
    <${SlowQueries} />
    ${status?.archive.damaged > 0 && html`<${Damage} />`}
  </section>`;
}

const PLACES = {
  quarantine: ["administration", "quarantine"], jobs_failed: ["queues"], commitments_failing: ["queues", "commitments"], webhook_parked: ["queues", "webhooks"], rule_parked: ["queues", "outbox"],
  background_job_failing: ["administration", "log"], worker_missing: ["administration", "log"], operations_failing: ["administration", "log"], feed_failing: ["administration", "log"], messages_missing: ["administration", "log"], messages_stalled: ["administration", "log"],
};

function Verdict({ status }) {
  const sign = { good: "✓", attention: "!", bad: "✕" }[status.state];
  return html`<div class=${`verdict ${status.state}`} role="status">
    <p class="verdict-state"><span class="sign" aria-hidden="true">${sign}</span> ${t(`verdict.${status.state}`)}</p>
    ${status.findings.length > 0 && html`<ul class="plain">${status.findings.map(({ code, level, values }) => html`<li class=${level}>
      <strong>${t(`level.${level}`)}: ${t(`finding.${code}`, worded(values))}</strong>
      <br />${t(`advice.${code}`)} ${PLACES[code] && html`<a href=${hashOf(PLACES[code])}>${t("look")}</a>`}</li>`)}</ul>`}
  </div>`;
}

/** Values of a finding as text. */
function worded(values) {
  const text = (value) => (Array.isArray(value) ? value.join(", ") : typeof value === "object" && value ? JSON.stringify(value) : typeof value === "number" ? number(value) : String(value));
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, name === "full_at_s" ? dateOf(value) : text(value).slice(0, HIDDEN_VALUES)]));
}

function Tiles({ status }) {
  const { rates, now, archive, condition, latency, object_store: store, messages } = status;
  const { scrub, disk, backups = [], replications = [], jobs = {}, commitments } = condition;
  const waiting = (jobs.waiting ?? 0) + (jobs.running ?? 0);
  const verified = backups.filter((one) => one.verified).map((one) => one.verified).sort().at(-1);
  const tiles = [
    [t("health.in"), `${number(rates.instances)}/s · ${bytesOf(rates.received_bytes)}/s`],
    [t("health.out"), `${bytesOf(rates.sent_bytes)}/s`],
    [t("health.associations"), `${number(now.associations)} ${t("health.open")} · ${number(rates.associations)}/s`],
    [t("health.http"), `${number(now.connections)} ${t("health.open")} · ${number(rates.requests)}/s`],
    [t("health.store.latency"), latencyOf(latency.store)],
    [t("health.sync.latency"), latencyOf(latency.sync)],
    [t("health.queue"), number(now.queue_depth)],
    [t("health.archive"), t("health.counts", { studies: number(archive.studies), instances: number(archive.instances), bytes: bytesOf(archive.live_bytes ?? archive.bytes ?? 0) })],
    [t("health.free"), html`${now.free_bytes === null ? "–" : bytesOf(now.free_bytes)}<br /><small>${forecastOf(disk)}</small>`],
    [t("health.scrub"), scrub ? (scrub.running ? t("health.scrub.running", { percent: Math.floor(scrub.progress * 100) }) : t("health.scrub.next", { date: moment(scrub.next_pass) })) : "–"],
    [t("health.backup"), html`${backups.length ? moment(backups[0].taken) : t("health.no.backup")}<br /><small>${verified ? t("health.verified", { date: moment(verified) }) : t("health.unverified")}</small>`],
    ...replications.map((one) => [t("health.replica", { destination: one.destination ?? "" }), `${one.lag_bytes ? bytesOf(one.lag_bytes) : t("health.caught.up")}${one.lag_s ? ` · ${number(one.lag_s)} s` : ""}`]),
    ...(store ? [[t("health.bucket"), html`${t(`bucket.${store.state.replaceAll(" ", "_")}`)}<br /><small>${waitingIn(store)}</small>`]] : []),
    ...(messages ? [[t("health.messages"), html`${t("health.messages.waiting", { count: number(messages.waiting) })}<br /><small>${t("health.messages.all", { count: number(messages.last_number), connections: number(messages.connections) })}</small>`]] : []),
    [t("queues"), html`<a href=${hashOf(["queues"])}>${t("health.jobs", { waiting: number(waiting), failed: number(jobs.failed ?? 0) })}</a><br /><small>${t("health.commitments", { waiting: number(commitments?.waiting ?? 0) })}</small>`],
    [t("quarantine"), html`<a href=${hashOf(["administration", "quarantine"])}>${number((archive.quarantined ?? 0) + (archive.versions ?? 0))}</a>`],
    ...(archive.trashed === undefined ? [] : [[t("health.trash"), number(archive.trashed)]]),
    [t("health.memory"), t("health.memory.of", { bytes: bytesOf(now.resident_bytes), workers: now.workers })],
  ];
  return html`<dl class="tiles">${tiles.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** What is not in the bucket yet. */
function waitingIn({ backlog_bytes, tail_lag_bytes, tail_age_s }) {
  const bytes = backlog_bytes + (tail_lag_bytes ?? 0);
  if (bytes) return t("bucket.waiting", { bytes: bytesOf(bytes) });
  return tail_lag_bytes === null && tail_age_s !== null ? t("bucket.since", { date: dateOf(Date.now() / 1000 - tail_age_s) }) : "";
}

function forecastOf(disk) {
  if (!disk || disk.state === "unknown") return t("disk.unknown");
  if (disk.state === "steady") return t("disk.steady");
  return t("disk.filling", { bytes: bytesOf(disk.bytes_per_day), date: dateOf(disk.full_at_s).slice(0, 10) });
}

function Activity({ status }) {
  const [isAll, setAll] = useState(false);
  const operations = status.operations.filter((one) => one.count || isAll).sort((one, other) => other.count - one.count || other.since_start - one.since_start);
  const window = number(status.window_s);
  return html`<div><h2>${t("health.operations", { seconds: window })}</h2>
    <p class="buttons"><label><input type="checkbox" checked=${isAll} onChange=${(event) => setAll(event.currentTarget.checked)} /> ${t("health.operations.all")}</label></p>
    <${Table} label=${t("health.operations", { seconds: window })} empty=${t("health.quiet")} columns=${[t("operation"), t("count"), t("health.failures"), t("received"), t("sent"), "p50 ms", "p95 ms", "p99 ms", t("health.since.start")]}
      rows=${operations.map((one) => [one.name, number(one.count), one.failures ? html`<span class="state failed">${number(one.failures)}</span>` : 0, bytesOf(one.received_bytes), bytesOf(one.sent_bytes), milliseconds(one.p50), milliseconds(one.p95), milliseconds(one.p99), number(one.since_start)])} />
    <h2>${t("health.peers", { seconds: window })}</h2>
    <${Table} label=${t("health.peers", { seconds: window })} empty=${t("health.quiet")} columns=${["AE", t("health.associations"), t("health.received.images"), t("received"), t("health.sent.images"), t("sent"), t("health.failures"), t("health.since.start")]}
      rows=${status.peers.map((one) => [one.name, number(one.associations), number(one.instances), bytesOf(one.bytes), number(one.sent_instances), bytesOf(one.sent_bytes), one.failures ? html`<span class="state failed">${number(one.failures)}</span>` : 0, t("health.peer.start", { associations: number(one.all_associations), instances: number(one.all_instances) })])} />
    ${status.clients.length > 0 && html`<h2>${t("health.clients", { seconds: window })}</h2>
      <${Table} label=${t("health.clients", { seconds: window })} columns=${[t("address"), t("health.requests")]} rows=${status.clients.map((one) => [one.name, number(one.requests)])} />`}</div>`;
}

/** Counters of what went wrong; what has no words is shown by its name. */
function Errors({ errors }) {
  const rows = Object.entries(errors).sort((one, other) => other[1][1] - one[1][1] || other[1][0] - one[1][0]);
  const named = (name) => (t(`error.${name}`) === `error.${name}` ? name.replaceAll("_", " ") : t(`error.${name}`));
  return html`<div><h2>${t("health.errors")}</h2>
    <${Table} label=${t("health.errors")} empty=${t("health.errors.none")} columns=${[t("reason"), t("health.last.minute"), t("health.since.start")]} rows=${rows.map(([name, [all, recent]]) => [named(name), number(recent), number(all)])} /></div>`;
}

const SLOW_EVERY_MS = 15_000;

function SlowQueries() {
  const { value, error, again } = useAnswer((signal) => get("api/log?level=warning&event=slow%20&limit=20", signal), []);
  const timer = useRef(0);
  useEffect(() => {
    timer.current = setInterval(() => document.hidden || again(), SLOW_EVERY_MS);
    return () => clearInterval(timer.current);
  }, []);
  const rows = (value?.events ?? []).map((one) => [moment(one.time), one.calling ?? one.peer ?? "–", one.query_level ?? "–", `${number(one.seconds * 1000)} ms`, one.matches ?? "–", Array.isArray(one.keys) ? one.keys.join(", ") : String(one.keys ?? "–"), String(one.access ?? "–")]);
  return html`<div><h2>${t("health.slow")}</h2><${Failure} error=${error} />
    ${value && html`<${Table} label=${t("health.slow")} empty=${t("health.slow.none")} columns=${[t("time"), t("by"), t("health.level"), t("health.duration"), t("health.matches"), t("health.keys"), t("health.access")]} rows=${rows} />`}</div>`;
}

function Damage() {
  const { value, error } = useAnswer((signal) => get("api/damage?limit=100", signal), []);
  return html`<div><h2>${t("health.damaged")}</h2><${Failure} error=${error} />
    ${value && html`<${Table} label=${t("health.damaged")} columns=${["SOP Instance UID", t("reason"), t("time")]} rows=${value.damage.map((one) => [html`<code>${one.sop_instance_uid}</code>`, one.what, moment(one.found)])} />`}</div>`;
}
