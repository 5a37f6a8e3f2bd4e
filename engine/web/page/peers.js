// Peers: who is known, whether they answer, when they were seen and what they took; added, changed and removed here.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Listed, Table } from "./parts.js";
import { post, put, remove } from "./server.js";
import { moment, t } from "./words.js";

const MAY = ["store", "query", "retrieve", "worklist", "workitem", "destination"];
const KEPT = [
  "host", "port", "url", "may", "destinations", "transfer_syntaxes", "prefer_compressed", "accept_truncated", "supply", "durability", "duplicates", "query_options", "pdu_length_max", "store_associations",
  "asynchronous_window", "timeout_s", "delivery_rate_bytes_per_s_min", "associations_max", "associations_per_address_max", "bandwidth_bytes_per_s_max", "query_results_max", "query_timeout_s",
];
const SEEN = ["accepted", "reached", "answered", "rejected", "unreachable"];
const dateOf = (seconds) => moment(new Date(seconds * 1000).toISOString());

export function Peers() {
  const [answers, setAnswers] = useState({});
  const [edited, setEdited] = useState(null);
  const [shown, setShown] = useState(null);
  const echo = async (aet) => {
    const began = performance.now();
    const tell = (text) => setAnswers((before) => ({ ...before, [aet]: text }));
    try {
      await post(`api/peers/${encodeURIComponent(aet)}/echo`);
      tell(`✓ ${t("echo.well", { ms: Math.round(performance.now() - began) })}`);
    } catch (error) {
      tell(`✕ ${error.message}`);
    }
  };
  return html`<${Listed} path="api/peers">${({ peers, strangers, overridden, names = {} }, again) => html`<p class="quiet">${t("peers.about")}</p>
    ${overridden.length > 0 && html`<p class="failure">${t("peers.overridden", { names: overridden.join(", ") })}</p>`}
    <p class="buttons"><button type="button" class="main" onClick=${() => setEdited({ isNew: true, may: MAY })}>${t("peers.add")}</button></p>
    <${Table} label=${t("peers")} empty=${t("peers.none")} columns=${["AE", t("address"), t("may"), t("peers.seen"), t("origin"), t("queues.actions")]}
      rows=${peers.map((peer) => [html`<strong>${peer.aet}</strong>`, peer.url || (peer.host ? `${peer.host}:${peer.port}` : "–"), (peer.may ?? []).map((one) => t(`may.${one}`)).join(", ") || "–",
        html`<${LastSeen} seen=${peer.seen} />`, t(`origin.${peer.origin}`),
        html`<span class="buttons">${peer.protocol && html`<${Action} label="Echo" work=${() => echo(peer.aet)} />`}
          <button type="button" onClick=${() => setShown(peer)} aria-label=${`${t("details")} ${peer.aet}`}>${t("details")}</button>
          ${peer.origin === "page" && html`<button type="button" onClick=${() => setEdited(peer)} aria-label=${`${t("edit")} ${peer.aet}`}>${t("edit")}</button>
            <${Action} label=${t("remove")} kind="danger" confirm=${t("peers.remove.sure", { aet: peer.aet })} work=${async () => { await remove(`api/peers/${encodeURIComponent(peer.aet)}`); again(); }} />`}</span>
          <span role="status" class=${answers[peer.aet]?.startsWith("✕") ? "failure" : ""}>${answers[peer.aet]}</span>`])} />
    ${strangers.length > 0 && html`<h2>${t("peers.strangers")}</h2><p class="quiet">${t("peers.strangers.about")}</p>
      <${Table} label=${t("peers.strangers")} columns=${["AE", t("peers.seen"), t("queues.actions")]}
        rows=${strangers.map((one) => [html`<strong>${one.aet}</strong>`, html`<${LastSeen} seen=${one.seen} />`,
          html`<span class="buttons"><button type="button" onClick=${() => setEdited({ isNew: true, aet: one.aet, host: one.seen.accepted?.address ?? one.seen.rejected?.address ?? "", may: MAY })}>${t("peers.add.stranger")}</button>
            <button type="button" onClick=${() => setShown(one)} aria-label=${`${t("details")} ${one.aet}`}>${t("details")}</button></span>`])} />`}
    ${edited && html`<${Editor} peer=${edited} close=${() => setEdited(null)} done=${() => { setEdited(null); again(); }} />`}
    ${shown && html`<${Seen} peer=${shown} names=${names} close=${() => setShown(null)} />`}`}<//>`;
}

/** The newest of everything that was seen of a peer. */
function LastSeen({ seen }) {
  const [kind, fact] = Object.entries(seen).sort((one, other) => other[1].time - one[1].time)[0] ?? [];
  if (!kind) return t("peers.never");
  const isBad = kind === "rejected" || kind === "unreachable";
  return html`<span class=${isBad ? "state failed" : ""}>${dateOf(fact.time)} ${t(`seen.${kind}`)}</span><br /><small>${fact.address}${fact.reason ? ` · ${fact.reason}` : ""}</small>`;
}

function Seen({ peer, names, close }) {
  const named = (uid) => names[uid] ?? uid;
  return html`<${Dialog} title=${peer.aet} close=${close}>
    ${!Object.keys(peer.seen).length && html`<p class="quiet">${t("peers.never")}</p>`}
    ${SEEN.filter((kind) => peer.seen[kind]).map((kind) => {
      const { time, address, title, reason, contexts = [] } = peer.seen[kind];
      return html`<h3>${t(`seen.${kind}`)}, ${dateOf(time)}</h3><p>${address}${title ? ` · ${t("peers.called", { title })}` : ""}${reason ? html`<br /><span class="failure">${reason}</span>` : ""}</p>
        ${contexts.length > 0 && html`<${Table} label=${t(`seen.${kind}`)} columns=${[t("peers.sop.class"), t("peers.syntax")]} rows=${contexts.map(([sopClass, syntax]) => [named(sopClass), named(syntax)])} />`}`;
    })}<//>`;
}

const LINES = [
  ["aet", "text", { required: true, maxlength: 16 }], ["host", "text"], ["port", "number", { min: 0, max: 65535 }], ["url", "text"],
  ["destinations", "list"], ["transfer_syntaxes", "list"], ["store_associations", "number", { min: 1, max: 64 }], ["associations_max", "number", { min: 1 }], ["bandwidth_bytes_per_s_max", "number", { min: 65536 }],
];
const SWITCHES = ["prefer_compressed", "accept_truncated", "supply"];

function Editor({ peer, close, done }) {
  const [values, setValues] = useState(() => ({ ...peer }));
  const [reason, setReason] = useState("");
  const [state, setState] = useState({ isBusy: false, error: null });
  const set = (name, value) => setValues((before) => ({ ...before, [name]: value }));
  const save = async (event) => {
    event.preventDefault();
    setState({ isBusy: true, error: null });
    const body = Object.fromEntries(KEPT.filter((name) => values[name] !== undefined && values[name] !== null && values[name] !== "").map((name) => [name, values[name]]));
    try {
      await put(`api/peers/${encodeURIComponent((values.aet ?? "").trim())}`, { ...body, reason });
      done();
    } catch (error) {
      setState({ isBusy: false, error });
    }
  };
  const input = ([name, kind, more = {}]) => {
    const text = kind === "list" ? (values[name] ?? []).join(", ") : values[name] ?? "";
    const read = (raw) => (kind === "number" ? (raw === "" ? null : Number(raw)) : kind === "list" ? (raw.trim() ? raw.split(",").map((one) => one.trim()).filter(Boolean) : name === "destinations" ? null : []) : raw);
    return html`<div><label for=${`peer-${name}`}>${t(`peer.${name}`)}</label>
      <input id=${`peer-${name}`} type=${kind === "number" ? "number" : "text"} ...${more} disabled=${name === "aet" && !peer.isNew} defaultValue=${text} onChange=${(event) => set(name, read(event.currentTarget.value))} onInput=${(event) => kind !== "list" && set(name, read(event.currentTarget.value))} aria-describedby=${`peer-${name}-about`} />
      <small id=${`peer-${name}-about`} class="quiet">${t(`peer.${name}.about`)}</small></div>`;
  };
  return html`<${Dialog} title=${peer.isNew ? t("peers.add") : peer.aet} close=${close}><form class="form" onSubmit=${save}>
    <div class="fields">${LINES.slice(0, 4).map(input)}</div>
    <fieldset><legend>${t("peers.may")}</legend>${MAY.map((one) => html`<label><input type="checkbox" checked=${values.may.includes(one)} onChange=${(event) => set("may", event.currentTarget.checked ? [...values.may, one] : values.may.filter((other) => other !== one))} /> ${t(`may.${one}`)}</label> `)}</fieldset>
    <details><summary>${t("peers.more")}</summary><div class="fields">${LINES.slice(4).map(input)}</div>
      ${SWITCHES.map((name) => html`<p><label><input type="checkbox" checked=${Boolean(values[name])} onChange=${(event) => set(name, event.currentTarget.checked)} /> ${t(`peer.${name}`)}</label></p>`)}</details>
    <div><label for="peer-reason">${t("peers.reason")}</label><input id="peer-reason" maxlength="1000" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} /></div>
    <${Failure} error=${state.error} />
    <p class="buttons"><button type="submit" class="main" disabled=${state.isBusy}>${t("save")}</button><button type="button" onClick=${close}>${t("cancel")}</button></p>
  </form><//>`;
}
