// Whether all is well: what the server does now, what it did in the last day and the last 90 days.

import { html, useEffect, useRef, useState } from "./preact.mjs";
import { Failure, Table, useAnswer, useEvery } from "./parts.js";
import { bytesOf } from "./dicom.js";
import { get } from "./server.js";
import { language, moment, t } from "./words.js";

const EVERY_MS = 3000;
const DAY_S = 86400;

/** Numbers of all workers' operations, by name: {count, bytes, failures}. */
function operationsOf(stats) {
  const sums = {};
  for (const worker of stats.workers) {
    for (const [name, one] of Object.entries(worker.operations)) {
      const sum = (sums[name] ??= { count: 0, received: 0, sent: 0, failures: 0, seconds: 0, latencies: null });
      sum.count += one.latency_s.count;
      sum.seconds += one.latency_s.sum;
      sum.received += one.received_bytes;
      sum.sent += one.sent_bytes;
      sum.failures += one.failures;
      const { bounds, buckets } = one.latency_s;
      sum.bounds = bounds;
      sum.latencies = sum.latencies ? sum.latencies.map((count, place) => count + buckets[place]) : [...buckets];
    }
  }
  return sums;
}

/** The upper bound below which a share of all latencies lies, in ms. */
function quantile({ bounds, latencies }, share) {
  const all = latencies.reduce((sum, count) => sum + count, 0);
  let below = 0;
  for (const [place, count] of latencies.entries()) {
    below += count;
    if (all && below >= share * all) return place < bounds.length ? `≤ ${bounds[place] * 1000}` : `> ${bounds.at(-1) * 1000}`;
  }
  return "";
}

/** The day on which the disk is full, when it fills as it did: least squares over the levels of the history. */
function fullOn(rows, column) {
  const points = rows.map((row) => [row[0], row[column]]).filter(([, free]) => free !== null);
  if (points.length < 3 || points.at(-1)[0] - points[0][0] < DAY_S / 4) return null;
  const mean = (place) => points.reduce((sum, point) => sum + point[place], 0) / points.length;
  const [middle, level] = [mean(0), mean(1)];
  const slope = points.reduce((sum, [time, free]) => sum + (time - middle) * (free - level), 0) / points.reduce((sum, [time]) => sum + (time - middle) ** 2, 0);
  if (slope >= -1) return null;
  return points.at(-1)[0] + points.at(-1)[1] / -slope;
}

export function Health() {
  const stats = useAnswer((signal) => get("api/stats", signal), []);
  const ready = useAnswer(async (signal) => {
    const response = await fetch(new URL("health/ready", document.baseURI), { signal });
    return response.json();
  }, []);
  const backups = useAnswer((signal) => get("api/backups", signal), []);
  const scrub = useAnswer((signal) => get("api/scrub", signal), []);
  const damage = useAnswer((signal) => get("api/damage", signal), []);
  const before = useRef(null);
  useEvery(EVERY_MS, () => {
    stats.again();
    ready.again();
  });
  const now = stats.value;
  const operations = now ? operationsOf(now) : {};
  const last = before.current;
  const seconds = last && now ? now.time - last.time : 0;
  const rate = (name, field) => (seconds > 0 && last.operations[name] ? Math.max(0, (operations[name][field] - last.operations[name][field]) / seconds) : 0);
  useEffect(() => {
    if (now) before.current = { time: now.time, operations };
  }, [now]);
  const problems = ready.value?.problems ?? [];
  const archive = now?.archive ?? {};
  const free = now?.workers[0]?.admission.free_bytes;
  const sum = (of) => (now ? now.workers.reduce((total, worker) => total + of(worker), 0) : 0);
  const cells = now && [
    [t("health.state"), problems.length ? problems.join("; ") : t("health.well"), problems.length ? "bad" : "good"],
    [t("health.stored"), `${rate("C-STORE", "count").toFixed(0)}/s · ${bytesOf(rate("C-STORE", "received"))}/s`],
    [t("health.associations"), sum((worker) => worker.associations)],
    [t("health.http"), sum((worker) => worker.http?.connections ?? 0)],
    [t("health.queue"), sum((worker) => worker.queue_depth)],
    [t("health.free"), free === undefined ? "–" : bytesOf(free)],
    [t("health.archive"), t("health.counts", { studies: archive.studies?.toLocaleString(language()), instances: archive.instances?.toLocaleString(language()), bytes: bytesOf(archive.live_bytes ?? 0) })],
    [t("health.damaged"), archive.damaged ?? 0, archive.damaged ? "bad" : "good"],
    [t("quarantine"), (archive.quarantined ?? 0) + (archive.versions ?? 0)],
    [t("health.scrub"), scrub.value ? (scrub.value.running ? `${Math.round(scrub.value.progress * 100)} %` : moment(scrub.value.last_pass?.ended ?? scrub.value.next_pass)) : "–"],
    [t("health.backup"), backups.value?.backups.length ? moment(backups.value.backups[0].verified ?? backups.value.backups[0].ended) : t("health.no.backup"), backups.value?.backups.length ? "good" : "bad"],
  ];
  return html`<section class="page-part"><h1>${t("health")}</h1>
    <${Failure} error=${stats.error} />
    ${cells && html`<dl class="tiles">${cells.map(([name, value, kind]) => html`<div class=${kind ?? ""}><dt>${name}</dt><dd>${kind ? html`<span aria-hidden="true">${kind === "bad" ? "⚠ " : "✓ "}</span>` : null}${value}</dd></div>`)}</dl>`}
    <${History} />
    <h2>${t("health.operations")}</h2>
    ${now && html`<${Table} label=${t("health.operations")} columns=${[t("operation"), t("count"), t("health.failures"), t("received"), t("sent"), "p50 ms", "p99 ms"]}
      rows=${Object.entries(operations).filter(([, one]) => one.count).sort((one, other) => other[1].count - one[1].count).map(([name, one]) =>
        [name, one.count.toLocaleString(language()), one.failures, bytesOf(one.received), bytesOf(one.sent), quantile(one, 0.5), quantile(one, 0.99)])} />`}
    ${damage.value?.damage.length > 0 && html`<h2>${t("health.damaged")}</h2><${Table} label=${t("health.damaged")} columns=${["SOP Instance UID", t("reason")]}
      rows=${damage.value.damage.map((one) => [html`<code>${one.sop_instance_uid ?? ""}</code>`, one.reason ?? one.problem ?? ""])} />`}
  </section>`;
}

const CHARTS = [
  ["health.chart.rate", (row, at, step) => row[at.instances] / step, (value) => `${value}/s`],
  ["health.chart.bytes", (row, at, step) => row[at.instance_bytes] / step, (value) => `${bytesOf(value)}/s`],
  ["health.chart.latency", (row, at) => (row[at.store_p99_s] ?? 0) * 1000, (value) => `${value} ms`],
  ["health.chart.free", (row, at) => row[at.free_bytes], bytesOf],
];

function History() {
  const [step, setStep] = useState("minute");
  const { value, error } = useAnswer((signal) => get(`api/stats/history?step=${step}`, signal), [step]);
  const at = Object.fromEntries((value?.columns ?? []).map((name, place) => [name, place]));
  const day = value && fullOn(value.rows, at.free_bytes);
  return html`<h2>${t("health.history")}</h2>
    <p class="buttons"><button type="button" aria-pressed=${step === "minute"} onClick=${() => setStep("minute")}>${t("health.day")}</button>
      <button type="button" aria-pressed=${step === "hour"} onClick=${() => setStep("hour")}>${t("health.quarter")}</button></p>
    <${Failure} error=${error} />
    ${day && html`<p>${t("health.full", { date: moment(new Date(day * 1000).toISOString()) })}</p>`}
    ${value && value.rows.length < 2 && html`<p class="quiet">${t("health.short")}</p>`}
    ${value && value.rows.length >= 2 && html`<div class="charts">${CHARTS.map(([name, of, unit]) => html`
      <${Chart} key=${name + step} title=${t(name)} unit=${unit} times=${value.rows.map((row) => row[0])} values=${value.rows.map((row) => of(row, at, value.step_s))} />`)}</div>`}`;
}

function Chart({ title, times, values, unit }) {
  const element = useRef(null);
  useEffect(() => {
    let chart = null;
    let isGone = false;
    // Fetched when the first chart is shown: the list of studies needs none of it.
    import("./uplot.mjs").then(({ default: UPlot }) => {
      if (isGone) return;
      const color = getComputedStyle(document.documentElement).getPropertyValue("--text");
      const line = getComputedStyle(document.documentElement).getPropertyValue("--accent");
      const grid = { stroke: getComputedStyle(document.documentElement).getPropertyValue("--edge"), width: 1 };
      const axis = { stroke: color, grid, ticks: grid };
      chart = new UPlot({
        width: element.current.clientWidth, height: 160, legend: { show: false }, cursor: { show: false },
        axes: [axis, { ...axis, size: 80, values: (_, all) => all.map((value) => unit(value)) }],
        series: [{}, { stroke: line, width: 1.5, fill: `${line.trim()}22` }],
        scales: { y: { range: (_, low, high) => [0, high || 1] } },
      }, [times, values], element.current);
    });
    return () => {
      isGone = true;
      chart?.destroy();
    };
  }, [times.length, times.at(-1)]);
  const newest = values.at(-1) ?? 0;
  return html`<figure><figcaption>${title} <span class="quiet">${unit(typeof newest === "number" ? Math.round(newest * 10) / 10 : newest)}</span></figcaption><div ref=${element}></div></figure>`;
}
