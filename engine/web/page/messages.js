// HL7 messages that were received: what came, what each says, how it is mapped, what it did; one can be applied again.

import { html, useRef, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, Table, useAnswer } from "./parts.js";
import { bytesOf } from "./dicom.js";
import { get, post } from "./server.js";
import { may } from "./session.js";
import { language, moment, t } from "./words.js";
import "./words_worklist.js";

const RESULTS = ["applied", "unchanged", "refused", "failed", "waiting"];
const TEXTS = ["patient", "kind"];
const PAUSE_MS = 400;
const ROWS = 100;
/** Beyond so many characters a text begins closed. */
const TEXT_MAX = 20_000;

export function Messages() {
  const [typed, setTyped] = useState({});
  const [filters, setFilters] = useState("");
  const [sources, setSources] = useState([]);
  const [number, setNumber] = useState(null);
  const timer = useRef(0);
  const set = (name, value) => {
    const next = { ...typed, [name]: value };
    setTyped(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setFilters(queryOf(next)), PAUSE_MS);
  };
  const choice = (name, all, options, textOf) => html`<label>${t(`messages.${name}`)} <select value=${typed[name] ?? ""} onChange=${(event) => set(name, event.currentTarget.value)}>
    <option value="">${all}</option>${options.map((one) => html`<option value=${one} selected=${one === typed[name]}>${textOf(one)}</option>`)}</select></label>`;
  return html`<div><p class="quiet">${t("messages.about")}</p>
    <form class="fields" role="search" onSubmit=${(event) => event.preventDefault()}>
      ${choice("result", t("messages.all"), RESULTS, (one) => t(`messages.${one}`))}
      ${sources.length > 0 && choice("source", t("messages.all.sources"), sources, (one) => one)}
      ${TEXTS.map((name) => html`<label>${t(`messages.${name}`)} <input type="search" maxlength="64" placeholder=${name === "kind" ? "ADT^A08" : ""} autocomplete="off" spellcheck=${false} value=${typed[name] ?? ""} onInput=${(event) => set(name, event.currentTarget.value)} /></label>`)}
      <label>${t("messages.since")} <input type="date" value=${typed.since ?? ""} onInput=${(event) => set("since", event.currentTarget.value)} /></label>
      <label>${t("messages.until")} <input type="date" value=${typed.until ?? ""} onInput=${(event) => set("until", event.currentTarget.value)} /></label></form>
    <${Rows} key=${filters} filters=${filters} open=${setNumber} tell=${setSources} />
    ${number && html`<${One} number=${number} close=${() => setNumber(null)} />`}</div>`;
}

/** What is chosen; the day `until` is in it. */
function queryOf(typed) {
  const query = new URLSearchParams();
  for (const [name, text] of Object.entries(typed)) {
    if (!text.trim()) continue;
    if (name !== "since" && name !== "until") query.set(name, text.trim());
    else {
      const day = new Date(`${text}T00:00:00`);
      if (name === "until") day.setDate(day.getDate() + 1);
      if (!Number.isNaN(day.getTime())) query.set(name, day.toISOString());
    }
  }
  return String(query);
}

function Rows({ filters, open, tell }) {
  const [older, setOlder] = useState([]);
  const first = useAnswer(async (signal) => {
    const page = await get(`api/messages?limit=${ROWS}&${filters}`, signal);
    tell(page.sources);
    return page;
  }, [filters]);
  const pages = [first.value, ...older].filter(Boolean);
  const next = pages.at(-1)?.older;
  const more = async () => setOlder([...older, await get(`api/messages?limit=${ROWS}&before=${next}&${filters}`)]);
  const again = () => {
    setOlder([]);
    first.again();
  };
  return html`<div><${Loading} isLoading=${first.isLoading && !first.value} /><${Failure} error=${first.error} />
    ${first.value && html`<p class="buttons"><button type="button" onClick=${again}>${t("messages.again")}</button></p>
      <${Table} label=${t("messages")} empty=${next ? t("messages.none.yet") : html`${t("messages.none")} <a href="docs/hl7" target="_blank">${t("messages.how")}</a>`} columns=${[t("messages.number"), t("time"), t("messages.kind"), t("messages.source"), t("messages.patient"), t("messages.result"), t("details")]}
        rows=${pages.flatMap((page) => page.messages).map((one) => rowOf(one, open))} />
      <p class="buttons">${next && html`<${Action} label=${t("messages.older")} work=${more} />`}</p>`}</div>`;
}

const Result = ({ one }) => html`<span class=${`state ${STATES[one.result] ?? ""}`}>${t(`messages.${one.result}`)}</span>`;
const STATES = { applied: "done", refused: "failed", failed: "failed", waiting: "waiting" };

const rowOf = (one, open) => [
  html`<button type="button" aria-label=${t("messages.open", { number: one.number })} onClick=${() => open(one.number)}>${one.number.toLocaleString(language())}</button>`,
  html`<span class="log-time">${moment(one.time)}</span>`, one.kind || "–", html`${one.source || "–"}<br /><small>${one.host}</small>`, one.patient_id,
  html`<${Result} one=${one} />`, html`<small>${[one.reason, ...one.changes.slice(0, 3), ...one.warnings.slice(0, 2)].filter(Boolean).join(" · ").slice(0, 300)}</small>`,
];

function One({ number, close }) {
  const { value, error, isLoading, again } = useAnswer((signal) => get(`api/messages/${number}`, signal), [number]);
  return html`<${Dialog} title=${t("messages.one", { number: number.toLocaleString(language()) })} close=${close}>
    <${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />${value && html`<${Facts} one=${value} again=${again} />`}<//>`;
}

function Facts({ one, again }) {
  const [reason, setReason] = useState("");
  const [done, setDone] = useState(null);
  const replay = async () => {
    setDone(await post(`api/messages/${one.number}/replay`, { reason }));
    again();
  };
  const list = (name, texts) => texts.length > 0 && html`<h3>${t(`messages.${name}`)}</h3><ul>${texts.map((text) => html`<li>${text}</li>`)}</ul>`;
  const faults = (one.mapped?.faults ?? []).map((fault) => [fault.code, fault.location, fault.reason].filter(Boolean).join(" "));
  return html`<dl class="facts">${[
      [t("time"), moment(one.time)], [t("messages.kind"), one.kind || "–"], [t("messages.source"), `${one.source || "–"} (${one.host})`], [t("messages.patient"), one.patient_id || "–"],
      [t("messages.result"), html`<${Result} one=${one} />`], [t("messages.control"), one.control_id || "–"], [t("size"), bytesOf(one.bytes)], [t("messages.profile"), one.profile],
    ].map(([name, text]) => html`<div><dt>${name}</dt><dd>${text}</dd></div>`)}</dl>
    ${one.reason && html`<p class="failure">${one.reason}</p>`}
    ${list("changes", one.changes)}${list("warnings", one.warnings)}${list("oddities", one.oddities)}
    ${one.why_not && html`<p class="failure">${one.why_not}</p>`}${one.is_cut && html`<p class="quiet">${t("messages.cut")}</p>`}
    ${one.segments.length > 0 && html`<h3>${t("messages.fields")}</h3>${one.segments.map((segment) => html`<details open=${one.segments.length < 12}><summary><code>${segment.segment}</code></summary>
      <${Table} label=${segment.segment} columns=${[t("messages.field"), t("messages.name"), t("value")]} rows=${segment.fields.map((field) => [html`<code>${field.field}</code>`, field.name, html`<code>${field.value}</code>`])} /></details>`)}`}
    ${one.mapped && html`<h3>${t("messages.mapped")}</h3>${list("faults", faults)}${list("warnings.now", one.mapped.warnings)}
      ${one.mapped.values.map((value) => html`<details><summary><code>${value.value}</code></summary><pre>${JSON.stringify({ ...value, value: undefined }, null, 2)}</pre></details>`)}`}
    <details open=${one.text.length < TEXT_MAX}><summary>${t("messages.raw")}</summary><pre tabindex="0">${one.text}</pre></details>
    ${may("correct") && html`<h3>${t("messages.replay")}</h3><p class="quiet">${t("messages.replay.about")}</p>
      <p class="buttons"><label>${t("reason")} <input type="text" maxlength="200" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></label>
        <${Action} label=${t("messages.replay")} confirm=${t("sure")} work=${replay} /></p>
      ${done && html`<p role="status"><${Result} one=${done} /> ${[done.reason, ...done.changes, ...done.warnings].filter(Boolean).join(" · ") || t("messages.nothing")}</p>`}`}`;
}
