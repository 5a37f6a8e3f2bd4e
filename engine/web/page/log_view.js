// The newest events of the server's log, with search; new ones appear while one looks.

import { html, useEffect, useRef, useState } from "./preact.mjs";
import { Failure, Loading } from "./parts.js";
import { get } from "./server.js";
import { t } from "./words.js";

const TAIL_MS = 2000;
const TYPED_MS = 300;
const ROWS = 200;
const ROWS_MAX = 2000;
const LEVELS = ["debug", "info", "warning", "error"];
const SIGNS = { debug: "·", info: "i", warning: "!", error: "✕" };
const OWN = ["time", "level", "logger", "event"];

export function Log() {
  const [filter, setFilter] = useState({ level: "info", event: "", text: "", peer: "", since: "" });
  const [isTailing, setTailing] = useState(true);
  const [page, setPage] = useState({ events: [], older: null, newest: "", isKept: true });
  const [state, setState] = useState({ isLoading: true, error: null });
  const latest = useRef({});
  latest.current = { filter, page };
  const query = (more) => new URLSearchParams(Object.entries({ ...latest.current.filter, since: utc(latest.current.filter.since), limit: ROWS, ...more }).filter(([, value]) => value !== "")).toString();
  const failed = (error) => error.name !== "AbortError" && setState({ isLoading: false, error });
  useEffect(() => {
    const abort = new AbortController();
    const timer = setTimeout(() => {
      get(`api/log?${query({})}`, abort.signal).then(({ events, older, newest, is_kept: isKept }) => {
        setPage({ events, older, newest, isKept });
        setState({ isLoading: false, error: null });
      }, failed);
    }, TYPED_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [JSON.stringify(filter)]);
  useEffect(() => {
    if (!isTailing) return;
    let isBusy = false;
    const timer = setInterval(async () => {
      const { newest } = latest.current.page;
      if (document.hidden || isBusy || !newest) return;
      isBusy = true;
      const asked = latest.current.filter;
      try {
        const { events, newest: next } = await get(`api/log?${query({ after: newest })}`);
        if (asked === latest.current.filter) setPage((before) => ({ ...before, events: [...events, ...before.events].slice(0, ROWS_MAX), newest: next || before.newest }));
        setState({ isLoading: false, error: null });
      } catch (error) {
        failed(error);
      }
      isBusy = false;
    }, TAIL_MS);
    return () => clearInterval(timer);
  }, [isTailing]);
  const more = async () => {
    try {
      const { events, older } = await get(`api/log?${query({ before: page.older })}`);
      setTailing(false);
      setPage((before) => ({ ...before, events: [...before.events, ...events], older }));
    } catch (error) {
      failed(error);
    }
  };
  const field = (name, type = "search") => html`<div><label for=${`log-${name}`}>${t(`log.${name}`)}</label><input id=${`log-${name}`} type=${type} value=${filter[name]} onInput=${(event) => setFilter({ ...filter, [name]: event.currentTarget.value })} /></div>`;
  return html`<div><p class="quiet">${t(page.isKept ? "log.about" : "log.off")}</p>
    <div class="fields log-filters"><div><label for="log-level">${t("log.level")}</label><select id="log-level" value=${filter.level} onChange=${(event) => setFilter({ ...filter, level: event.currentTarget.value })}>
        ${LEVELS.map((level) => html`<option value=${level} selected=${level === filter.level}>${t(`log.level.${level}`)}</option>`)}</select></div>
      ${field("event")}${field("peer")}${field("text")}${field("since", "datetime-local")}</div>
    <p class="buttons"><label><input type="checkbox" checked=${isTailing} onChange=${(event) => setTailing(event.currentTarget.checked)} /> ${t("log.tail")}</label></p>
    <${Failure} error=${state.error} /><${Loading} isLoading=${state.isLoading} />
    ${!state.isLoading && !page.events.length && html`<p class="quiet">${t("log.none")}</p>`}
    ${page.events.length > 0 && html`<div class="scrolled" tabindex="0" role="region" aria-label=${t("log")}><table class="log" aria-label=${t("log")}><thead><tr><th scope="col">${t("time")}</th><th scope="col">${t("log.level")}</th><th scope="col">${t("log.event")}</th></tr></thead>
      <tbody>${page.events.map((event) => html`<${Row} key=${`${event.time}${event.worker ?? ""}${event.event}${event.request_id ?? ""}`} event=${event} />`)}</tbody></table></div>`}
    ${page.older && page.events.length < ROWS_MAX && html`<p class="buttons"><button type="button" onClick=${more}>${t("older")}</button></p>`}</div>`;
}

/** A local date and time of an input, in UTC as the log has it. */
function utc(text) {
  const date = text ? new Date(text) : null;
  return date && !Number.isNaN(date.getTime()) ? date.toISOString() : "";
}

function Row({ event }) {
  const time = new Date(event.time);
  const text = `${time.toLocaleDateString("sv")} ${time.toLocaleTimeString("sv")}.${String(time.getMilliseconds()).padStart(3, "0")}`;
  const fields = Object.entries(event).filter(([name]) => !OWN.includes(name));
  return html`<tr><td class="log-time">${text}</td><td class=${`log-level ${event.level}`}><span aria-hidden="true">${SIGNS[event.level]}</span> ${t(`log.level.${event.level}`)}</td>
    <td class="value"><strong>${event.event}</strong> <small class="quiet">${event.logger}</small><br /><small>${fields.map(([name, value]) => html`<span class="log-field">${name}=${typeof value === "object" ? JSON.stringify(value) : String(value)}</span> `)}</small></td></tr>`;
}
