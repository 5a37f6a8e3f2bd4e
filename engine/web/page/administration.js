// What an administrator looks after: peers, quarantine, corrections, holds, retention, settings, the log.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Listed, Table, lazily } from "./parts.js";
import { Findings } from "./findings.js";
import { Log } from "./log_view.js";
import { Peers } from "./peers.js";
import { bytesOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { Trash } from "./trash.js";
import { post, urlOf } from "./server.js";
import { may } from "./session.js";
import { senderName } from "./senders.js";
import { moment, t } from "./words.js";
import "./words_security.js";
import "./words_upkeep.js";

const Audit = lazily(async () => (await import("./audit_view.js")).Audit);
const Grants = lazily(async () => (await import("./break_glass.js")).Grants);
const Shares = lazily(async () => (await import("./shares.js")).Shares);
const Users = lazily(async () => (await import("./users.js")).Users);

/** The views, and the actions of which each one needs one. */
const VIEWS = {
  peers: [Peers, "observe"], quarantine: [Quarantine, "observe"], conflicts: [Conflicts, "observe"], corrections: [Corrections, "observe"], holds: [Holds, "observe"], trash: [Trash, "restore"],
  retention: [Retention, "observe"], users: [Users, "administer"], shares: [Shares, "share"], grants: [Grants, "administer", "audit"], audit: [Audit, "audit"], findings: [Findings, "observe"],
  viewer: [InstalledViewer, "observe"], settings: [Settings, "observe"], log: [Log, "manage"],
};

export function Administration({ view }) {
  const names = Object.keys(VIEWS).filter((one) => may(...VIEWS[one].slice(1)));
  const name = names.includes(view) ? view : names[0];
  return html`<section class="page-part"><h1>${t("administration")}</h1>
    <nav class="tabs" aria-label=${t("administration")}>${names.map((one) => html`<a href=${hashOf(["administration", one])} aria-current=${one === name ? "page" : undefined}>${t(one)}</a>`)}</nav>
    ${name && html`<${VIEWS[name][0]} key=${name} />`}
  </section>`;
}

const StudyLink = ({ study }) => html`<a href=${hashOf(["study", study])}><code>${study}</code></a>`;

function Quarantine() {
  const [item, setItem] = useState(null);
  const ask = (id, what, again) => async () => {
    await post(`api/quarantine/${encodeURIComponent(id)}/${what}`);
    again();
  };
  return html`<${Listed} path="api/quarantine?limit=500">${({ quarantine, more }, again) => html`<p class="quiet">${t("quarantine.about")} ${quarantine.length > 0 && t("quarantine.count", { count: more ? `${quarantine.length}+` : quarantine.length })}</p>
    <${Table} label=${t("quarantine")} empty=${t("quarantine.none")} columns=${[t("received"), t("from"), t("kind"), t("size"), "SOP Instance UID", t("reason"), t("queues.actions")]}
      rows=${quarantine.map((one) => [moment(one.received), senderName(one.calling_ae_title), t(`quarantine.${one.kind}`), bytesOf(one.bytes), html`<code>${one.sop_instance_uid}</code>`, one.reason,
        html`<span class="buttons">
          ${one.kind === "version" && html`<button type="button" onClick=${() => setItem(one.id)}>${t("differences")}</button>`}
          <${Action} label=${t("readmit")} confirm=${t("readmit.sure")} work=${ask(one.id, "readmit", again)} />
          <${Action} label=${t("drop")} kind="danger" confirm=${t("drop.sure")} work=${ask(one.id, "drop", again)} /></span>`])} />
    ${item && html`<${Dialog} title=${t("differences")} close=${() => setItem(null)}><${Listed} path=${`api/quarantine/${encodeURIComponent(item)}/differences`}>${(value) => html`<${Differences} value=${value} />`}<//><//>`}`}<//>`;
}

function Differences({ value }) {
  return html`<p>${t("differences.count", { count: value.differences.length })}</p><${Table} label=${t("differences")} empty=${t("differences.none")} columns=${[t("tag"), "VR", t("differences"), t("stored"), t("quarantine")]}
    rows=${value.differences.map((one) => [one.element, one.vr, one.what, one.current, one.version])} />`;
}

function Conflicts() {
  return html`<${Listed} path="api/conflicts?limit=500">${({ conflicts }) => html`<p class="quiet">${t("conflicts.about")}</p>
    <${Table} label=${t("conflicts")} empty=${t("conflicts.none")} columns=${[t("study"), t("series"), t("attributes")]}
      rows=${conflicts.map((one) => [html`<${StudyLink} study=${one.study_instance_uid} />`, html`<code>${one.series_instance_uid || "–"}</code>`, one.attributes.map((name) => t(name)).join(", ")])} />`}<//>`;
}

function Corrections() {
  return html`<${Listed} path="api/corrections?limit=500">${({ corrections }, again) => html`<p class="quiet">${t("corrections.about")}</p>
    <${Table} label=${t("corrections")} empty=${t("corrections.none")} columns=${["#", t("operation"), t("attributes"), t("time"), t("by"), t("reason"), t("queues.actions")]}
      rows=${corrections.map((one) => [one.number, one.operation ?? one.kind, one.sets.map((name) => t(name)).join(", "), moment(one.made), one.by, one.reason,
        one.undone ? t("undone") : html`<${Action} label=${t("undo")} confirm=${t("sure")} work=${async () => { await post(`api/corrections/${one.number}/undo`); again(); }} />`])} />`}<//>`;
}

function Holds() {
  return html`<${Listed} path="api/holds">${({ holds }, again) => html`<p class="quiet">${t("hold.about")}</p>
    <${Table} label=${t("holds")} empty=${t("holds.none")} columns=${[t("study"), t("instances"), t("time"), t("by"), t("reason"), t("queues.actions")]}
      rows=${holds.map((one) => [html`<${StudyLink} study=${one.study_instance_uid} />`, one.instances, moment(one.since), one.by, one.reason,
        html`<${Action} label=${t("release")} confirm=${t("sure")} work=${async () => { await post("api/holds/release", { studies: [one.study_instance_uid] }); again(); }} />`])} />`}<//>`;
}

/** A rule's conditions: every setting that is set, but its name and whether it is on. */
const conditionsOf = (rule) =>
  Object.entries(rule).filter(([key, value]) => !["name", "enabled"].includes(key) && value !== null && value !== "" && !(Array.isArray(value) && !value.length)).map(([key, value]) => `${key} = ${Array.isArray(value) ? value.join(", ") : value}`).join("; ");

function Retention() {
  const [isDue, setDue] = useState(false);
  return html`<div><p class="quiet">${t("retention.about")}</p><${Listed} path="api/retention?limit=0">${({ rules }) => html`
    <${Table} label=${t("retention")} empty=${t("retention.none")} columns=${[t("rules"), t("state"), t("retention.conditions")]} rows=${rules.map((rule) => [rule.name, rule.enabled ? t("on") : t("off"), html`<code>${conditionsOf(rule)}</code>`])} />
    ${rules.length > 0 && !isDue && html`<p><button type="button" class="main" onClick=${() => setDue(true)}>${t("retention.dry")}</button></p>`}`}<//>
    ${isDue && html`<h2>${t("retention.due")}</h2><${Listed} path="api/retention?limit=500">${({ due, more }) => html`
      <p>${t("retention.count", { count: more ? `${due.length}+` : due.length, bytes: bytesOf(due.filter((one) => !one.held).reduce((sum, one) => sum + one.bytes, 0)), held: due.filter((one) => one.held).length })}</p>
      <${Table} label=${t("retention.due")} empty=${t("retention.none.due")} columns=${[t("study"), t("rules"), t("StudyDate"), t("ModalitiesInStudy"), t("received"), t("instances"), t("size"), t("holds")]}
        rows=${due.map((one) => [html`<${StudyLink} study=${one.study_instance_uid} />`, one.rule, one.study_date, one.modalities.join(", "), moment(one.received), one.instances, bytesOf(one.bytes), one.held ? t("retention.held") : ""])} />`}<//>`}</div>`;
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
  const [text, setText] = useState("");
  const [isChanged, setChanged] = useState(false);
  const needle = text.toLowerCase();
  const shown = (value) => (value === null || value === "" ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));  // as in the file
  return html`<div><p class="quiet">${t("settings.about")}</p><${Listed} path="api/settings">${({ settings }) => {
    const rows = settings.filter((one) => (!needle || `${one.key} ${one.value} ${one.about}`.toLowerCase().includes(needle)) && (!isChanged || one.origin !== "default"));
    return html`<p class="buttons"><label>${t("search")} <input type="search" value=${text} onInput=${(event) => setText(event.currentTarget.value)} /></label>
      <label><input type="checkbox" checked=${isChanged} onChange=${(event) => setChanged(event.currentTarget.checked)} /> ${t("settings.changed")}</label> <span class="quiet" role="status">${rows.length}</span></p>
      <${Table} kind="settings" label=${t("settings")} columns=${[t("settings.key"), t("value"), t("origin"), t("meaning")]} rows=${rows.map((one) => [html`<code>${one.key}</code>`, shown(one.value), t(`origin.${one.origin}`), one.about])} />`;
  }}<//></div>`;
}
