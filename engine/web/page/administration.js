// What an administrator looks after: peers, quarantine, corrections, holds, retention, settings.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, Table, useAnswer } from "./parts.js";
import { bytesOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { Trash } from "./trash.js";
import { get, post, urlOf } from "./server.js";
import { moment, t } from "./words.js";

const VIEWS = { peers: Peers, quarantine: Quarantine, conflicts: Conflicts, corrections: Corrections, holds: Holds, trash: Trash, retention: Retention, viewer: InstalledViewer, settings: Settings };

export function Administration({ view }) {
  const name = view in VIEWS ? view : "peers";
  return html`<section class="page-part"><h1>${t("administration")}</h1>
    <nav class="tabs" aria-label=${t("administration")}>${Object.keys(VIEWS).map((one) => html`<a href=${hashOf(["administration", one])} aria-current=${one === name ? "page" : undefined}>${t(one)}</a>`)}</nav>
    <${VIEWS[name]} />
  </section>`;
}

/** One list of the API, as a view. */
function Listed({ path, children }) {
  const { value, error, isLoading, again } = useAnswer((signal) => get(path, signal), [path]);
  return html`<${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />${value && children(value, again)}`;
}

function Peers() {
  const [answers, setAnswers] = useState({});
  const echo = async (aet) => {
    const began = performance.now();
    try {
      await post(`api/peers/${encodeURIComponent(aet)}/echo`);
      setAnswers((before) => ({ ...before, [aet]: t("echo.well", { ms: Math.round(performance.now() - began) }) }));
    } catch (error) {
      setAnswers((before) => ({ ...before, [aet]: error.message }));
    }
  };
  return html`<${Listed} path="api/peers">${({ peers }) => html`<p class="quiet">${t("peers.about")}</p>
    <${Table} label=${t("peers")} empty=${t("peers.none")} columns=${["AE", t("address"), t("protocol"), t("may"), t("syntaxes"), "C-ECHO"]}
      rows=${peers.map((peer) => [peer.aet, peer.url || (peer.host ? `${peer.host}:${peer.port}` : "–"), peer.protocol ?? "–", (peer.may ?? []).join(", "), peer.transfer_syntaxes.join(", ") || "–",
        peer.protocol ? html`<${Action} label="Echo" work=${() => echo(peer.aet)} /> <span role="status">${answers[peer.aet]}</span>` : ""])} />`}<//>`;
}

function Quarantine() {
  const [item, setItem] = useState(null);
  return html`<${Listed} path="api/quarantine?limit=500">${({ quarantine }, again) => html`
    <${Table} label=${t("quarantine")} empty=${t("quarantine.none")} columns=${[t("received"), t("from"), t("size"), "SOP Instance UID", t("reason"), ""]}
      rows=${quarantine.map((one) => [moment(one.received), one.calling_ae_title || "–", bytesOf(one.bytes), html`<code>${one.sop_instance_uid}</code>`, one.reason,
        html`<span class="buttons">
          <button type="button" onClick=${() => setItem(one.id)}>${t("differences")}</button>
          <${Action} label=${t("readmit")} confirm=${t("readmit.sure")} work=${async () => { await post(`api/quarantine/${encodeURIComponent(one.id)}/readmit`); again(); }} />
          <${Action} label=${t("drop")} kind="danger" confirm=${t("drop.sure")} work=${async () => { await post(`api/quarantine/${encodeURIComponent(one.id)}/drop`); again(); }} /></span>`])} />
    ${item && html`<${Dialog} title=${t("differences")} close=${() => setItem(null)}><${Listed} path=${`api/quarantine/${encodeURIComponent(item)}/differences`}>${(value) => html`<${Differences} value=${value} />`}<//><//>`}`}<//>`;
}

function Differences({ value }) {
  return html`<${Table} label=${t("differences")} empty=${t("differences.none")} columns=${[t("tag"), "VR", t("differences"), t("stored"), t("quarantine")]}
    rows=${(value.differences ?? []).map((one) => [one.element, one.vr, one.what, one.current, one.version])} />`;
}

function Conflicts() {
  return html`<${Listed} path="api/conflicts?limit=500">${({ conflicts }) => html`<p class="quiet">${t("conflicts.about")}</p>
    <${Table} label=${t("conflicts")} empty=${t("conflicts.none")} columns=${[t("study"), t("series"), t("attributes")]}
      rows=${conflicts.map((one) => [html`<a href=${hashOf(["study", one.study_instance_uid])}><code>${one.study_instance_uid}</code></a>`, html`<code>${one.series_instance_uid || "–"}</code>`, one.attributes.map((name) => t(name)).join(", ")])} />`}<//>`;
}

function Corrections() {
  return html`<${Listed} path="api/corrections?limit=500">${({ corrections }, again) => html`
    <${Table} label=${t("corrections")} empty=${t("corrections.none")} columns=${["#", t("operation"), t("attributes"), t("time"), t("by"), t("reason"), ""]}
      rows=${corrections.map((one) => [one.number, one.operation ?? one.kind, one.sets.map((name) => t(name)).join(", "), moment(one.made), one.by, one.reason,
        one.undone ? t("undone") : html`<${Action} label=${t("undo")} confirm=${t("sure")} work=${async () => { await post(`api/corrections/${one.number}/undo`); again(); }} />`])} />`}<//>`;
}

function Holds() {
  return html`<${Listed} path="api/holds">${({ holds }, again) => html`
    <${Table} label=${t("holds")} empty=${t("holds.none")} columns=${[t("study"), t("time"), t("by"), t("reason"), ""]}
      rows=${holds.map((one) => {
        const study = one.study_instance_uid;
        return [html`<a href=${hashOf(["study", study])}><code>${study}</code></a>`, moment(one.since), one.by, one.reason,
          html`<${Action} label=${t("release")} confirm=${t("sure")} work=${async () => { await post("api/holds/release", { studies: [study] }); again(); }} />`];
      })} />`}<//>`;
}

function Retention() {
  return html`<${Listed} path="api/retention">${({ rules, due }) => html`<p class="quiet">${t("retention.about")}</p>
    <${Table} label=${t("rules")} empty=${t("retention.none")} columns=${[t("rules"), t("state"), ""]} rows=${rules.map((rule) => [rule.name, rule.enabled ? t("on") : t("off"), JSON.stringify(rule)])} />
    <h2>${t("retention.due")}</h2>
    <${Table} label=${t("retention.due")} columns=${[t("study"), t("rules")]} rows=${due.map((one) => [html`<code>${one.study_instance_uid}</code>`, one.rule ?? ""])} />`}<//>`;
}

function InstalledViewer() {
  return html`<${Listed} path="api/viewer">${(state) => html`<p class="quiet">${t("viewer.about")}</p>
    <p>${state.is_installed ? t("viewer.installed", { version: state.version }) : t("viewer.missing")}</p>
    ${state.is_installed && !state.is_minified && html`<p>${t("viewer.whole")}</p>`}
    ${state.is_installed && !state.is_current && html`<p>${t("viewer.outdated")}</p>`}
    ${!(state.is_installed && state.is_current && state.is_minified) && html`<p><code>filmroom viewer install</code></p><p class="quiet">${t("viewer.how")}</p>`}
    ${state.is_installed && html`<p><a href=${urlOf("ohif/files/" + state.name + "/LICENSE.txt")}>${t("viewer.license")}</a></p>`}`}<//>`;
}

function Settings() {
  const [wanted, setWanted] = useState("");
  const needle = wanted.toLowerCase();
  return html`<${Listed} path="api/settings">${({ settings }) => html`
    <p><label>${t("search")} <input type="search" value=${wanted} onInput=${(event) => setWanted(event.currentTarget.value)} /></label></p>
    <${Table} label=${t("settings")} columns=${[t("key"), t("value"), t("origin"), t("meaning")]}
      rows=${settings.filter((one) => !needle || `${one.key} ${one.value} ${one.about}`.toLowerCase().includes(needle)).map((one) =>
        [html`<code>${one.key}</code>`, typeof one.value === "object" ? JSON.stringify(one.value) : String(one.value), one.origin, one.about])} />`}<//>`;
}
