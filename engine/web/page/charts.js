// Charts of the last minutes, the last day and the last 90 days. uPlot is fetched when the first one is drawn.

import { html, useEffect, useRef, useState } from "./preact.mjs";
import { Failure, useAnswer, useEvery } from "./parts.js";
import { bytesOf } from "./dicom.js";
import { get } from "./server.js";
import { language, t } from "./words.js";

const MINUTE_MS = 60_000;
const DAY_S = 86_400;
const STEPS = { now: "health.now", minute: "health.day", hour: "health.quarter" };
const LINES = [{ color: "--accent", dash: [] }, { color: "--good", dash: [7, 4] }, { color: "--bad", dash: [2, 3] }];

const ms = (value) => `${(value ?? 0).toLocaleString(language())} ms`;
const perSecond = (value) => `${value.toLocaleString(language(), { maximumFractionDigits: 1 })}/s`;
const rateOfBytes = (value) => `${bytesOf(value)}/s`;
const count = (value) => value.toLocaleString(language());

/** Each chart: title, unit, and its lines: label, value of a live point, value of a row of the history. */
const CHARTS = [
  ["health.chart.rate", perSecond, [["health.chart.stored", (point) => point.instances, (row, step) => row.instances / step]]],
  ["health.chart.bytes", rateOfBytes, [["received", (point) => point.received_bytes, (row, step) => row.instance_bytes / step], ["sent", (point) => point.sent_bytes, (row, step) => row.sent_bytes / step]]],
  ["health.chart.latency", ms, percentiles("store", (point) => point.store)],
  ["health.chart.query", ms, percentiles("query")],
  ["health.chart.web", ms, percentiles("web")],
  ["health.chart.sync", ms, percentiles("sync")],
  ["health.chart.associations", count, [["health.associations", (point) => point.associations, (row) => row.associations], ["health.http", null, (row) => row.connections]]],
  ["health.chart.free", bytesOf, [["health.free", (point) => point.free ?? 0, (row) => row.free_bytes]]],
];

function percentiles(kind, live = null) {
  return [50, 95, 99].map((percent) => [`p${percent}`, live && ((point) => (live(point)?.[`p${percent}`] ?? 0) * 1000), (row) => row[`${kind}_p${percent}_s`] * 1000]);
}

/** A moment on the axis: the day where the chart shows many. */
function clock(time, splits) {
  const date = new Date(time * 1000);
  const isLong = splits.at(-1) - splits[0] > 2 * DAY_S;
  return isLong ? date.toLocaleDateString(language(), { month: "short", day: "numeric" }) : date.toLocaleTimeString(language(), { hour: "2-digit", minute: "2-digit", ...(splits.at(-1) - splits[0] < 300 && { second: "2-digit" }), hourCycle: "h23" });
}

export function Charts({ points }) {
  const [step, setStep] = useState("now");
  const { value, error, again } = useAnswer((signal) => (step === "now" ? Promise.resolve(null) : get(`api/stats/history?step=${step}`, signal)), [step]);
  useEvery(MINUTE_MS, () => step !== "now" && again());
  const rows = value?.rows.map((row) => Object.fromEntries(value.columns.map((name, place) => [name, row[place]])));
  const source = step === "now" ? points : rows ?? [];
  const lines = (all) => all.filter(([, live]) => step !== "now" || live).map(([label, live, past]) => [label, source.map((one) => (step === "now" ? live(one) : past(one, value.step_s)))]);
  return html`<div><h2>${t("health.history")}</h2>
    <p class="buttons" role="group" aria-label=${t("health.history")}>${Object.entries(STEPS).map(([name, label]) => html`<button type="button" aria-pressed=${step === name} onClick=${() => setStep(name)}>${t(label)}</button>`)}</p>
    <${Failure} error=${error} />
    ${source.length < 2 ? html`<p class="quiet">${t(step === "now" ? "loading" : "health.short")}</p>`
      : html`<div class="charts">${CHARTS.filter(([, , all]) => step !== "now" || all.some(([, live]) => live)).map(([title, unit, all]) => html`
        <${Chart} key=${title + step} title=${t(title)} unit=${unit} times=${source.map((one) => one.time)} lines=${lines(all)} />`)}</div>`}</div>`;
}

function Chart({ title, times, lines, unit }) {
  const element = useRef(null);
  const chart = useRef(null);
  const data = [times, ...lines.map(([, values]) => values)];
  const latest = useRef(data);
  latest.current = data;
  const theme = document.documentElement.dataset.theme;
  useEffect(() => {
    let isGone = false;
    const resized = new ResizeObserver(() => chart.current?.setSize({ width: element.current.clientWidth, height: 150 }));
    import("./uplot.mjs").then(({ default: UPlot }) => {
      if (isGone) return;
      const style = getComputedStyle(document.documentElement);
      const color = (name) => style.getPropertyValue(name).trim();
      const grid = { stroke: color("--edge"), width: 1 };
      const axis = { stroke: color("--text"), grid, ticks: grid };
      chart.current = new UPlot({
        width: element.current.clientWidth, height: 150, legend: { show: false }, cursor: { show: false },
        axes: [{ ...axis, values: (_, splits) => splits.map((time) => clock(time, splits)) }, { ...axis, size: 78, values: (_, all) => all.map(unit) }],
        series: [{}, ...lines.map((_, place) => ({ stroke: color(LINES[place].color), dash: LINES[place].dash, width: 1.6, points: { show: false } }))],
        scales: { y: { range: (_, low, high) => [0, high || 1] } },
      }, latest.current, element.current);
      resized.observe(element.current);
    });
    return () => {
      isGone = true;
      resized.disconnect();
      chart.current?.destroy();
      chart.current = null;
    };
  }, [theme]);
  useEffect(() => chart.current?.setData(latest.current), [times.length, times.at(-1)]);
  const newest = lines.map(([label, values]) => `${t(label)} ${unit(Math.round((values.at(-1) ?? 0) * 10) / 10)}`);
  return html`<figure aria-label=${`${title}: ${newest.join(", ")}`}><figcaption>${title}
    <span class="legend">${newest.map((text, place) => html`<span class=${`line line-${place}`}>${text}</span>`)}</span></figcaption><div class="chart" aria-hidden="true" ref=${element}></div></figure>`;
}
