// Shares: links for people outside to a study, series or patient; made, listed, revoked.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Listed, Table } from "./parts.js";
import { Days, Once, actorText, inDays, useForm } from "./secrets.js";
import { hashOf } from "./location.js";
import { post, remove } from "./server.js";
import { moment, t } from "./words.js";
import "./words_security.js";

/** Makes a share of `what`: {studies}, {series} or {patient}. */
export function Share({ what, title, close }) {
  const [values, setValues] = useState({ days: "7", uses: "", password: "", recipient: "", may_download: false });
  const [link, setLink] = useState(null);
  const set = (name, value) => setValues((before) => ({ ...before, [name]: value }));
  const { isBusy, error, submit } = useForm(async () => {
    const { days, uses, password, recipient, may_download } = values;
    const made = await post("api/shares", { ...what, until: inDays(days), may_download, recipient, ...(uses && { uses_max: Number(uses) }), ...(password && { password }) });
    setLink(made.link);
  });
  return html`<${Dialog} title=${t("share")} close=${close}><p>${title}</p>${link
    ? html`<${Once} text=${link} label=${t("share.made")} isLink /><p class="quiet">${t("share.made.about")}</p>`
    : html`<form class="form stacked" onSubmit=${submit}><p class="quiet">${t("share.about")}</p><div class="fields">
      <${Days} label=${t("until")} value=${values.days} changed=${(days) => set("days", days)} choices=${[1, 3, 7, 30, 90]} />
      <label>${t("share.uses")} <input type="number" min="1" max="10000" placeholder=${t("share.uses.any")} value=${values.uses} onInput=${(event) => set("uses", event.currentTarget.value)} /></label>
      <label>${t("share.password")} <input type="text" minlength="8" autocomplete="off" spellcheck=${false} value=${values.password} onInput=${(event) => set("password", event.currentTarget.value)} /></label>
      <label>${t("share.recipient")} <input maxlength="200" autocomplete="off" value=${values.recipient} onInput=${(event) => set("recipient", event.currentTarget.value)} /></label></div>
      <p><label><input type="checkbox" checked=${values.may_download} onChange=${(event) => set("may_download", event.currentTarget.checked)} /> ${t("share.download")}</label></p>
      <${Failure} error=${error} /><p class="buttons"><button type="submit" class="main" disabled=${isBusy}>${t("share.make")}</button></p></form>
      ${what.studies?.length === 1 && html`<${Shares} study=${what.studies[0]} />`}`}<//>`;
}

/** Shares that exist: all that the session may see, or those of one study. */
export function Shares({ study }) {
  const state = (share) => (share.revoked ? "revoked" : !share.is_open ? "ended" : share.uses_max && share.uses >= share.uses_max ? "used.up" : "open");
  return html`<${Listed} path="api/shares?limit=500">${({ shares: all }, again) => {
    const shares = all.filter((share) => !study || share.studies.includes(study) || share.series.some((one) => one.study === study));
    return study && !shares.length ? null : html`${study ? html`<h3>${t("shares")}</h3>` : html`<p class="quiet">${t("shares.about")}</p>`}
    <${Table} label=${t("shares")} empty=${t("shares.none")} columns=${[...(study ? [] : [t("shares.what")]), t("share.recipient"), t("state"), t("until"), t("share.used"), t("share.allows"), t("by"), t("queues.actions")]}
      rows=${shares.map((share) => [
        ...(study ? [] : [share.patient ? `${t("PatientID")} ${share.patient.id}` : share.series.length ? share.series.map((one) => html`<div>${t("series")} <a href=${hashOf(["study", one.study])}><code>${one.series}</code></a></div>`) : share.studies.map((uid) => html`<div><a href=${hashOf(["study", uid])}><code>${uid}</code></a></div>`)]),
        share.recipient || "–", html`<span class=${state(share) === "open" ? "state done" : "state failed"}>${t(`share.${state(share)}`)}</span>`, moment(share.until), `${share.uses}${share.uses_max ? ` / ${share.uses_max}` : ""}`,
        [t(share.may_download ? "share.view.download" : "share.view"), share.has_password && t("share.has.password")].filter(Boolean).join(", "), actorText(share.by),
        state(share) === "open" && html`<${Action} label=${t("revoke")} kind="danger" confirm=${t("share.revoke.sure")} work=${async () => { await remove(`api/shares/${encodeURIComponent(share.id)}`); again(); }} />`])} />`;
  }}<//>`;
}
