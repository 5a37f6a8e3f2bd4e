// Emergency access to what one may not see otherwise: with a reason, for some hours, announced on every view while it lasts.

import { html, useEffect, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Listed, Table } from "./parts.js";
import { go, hashOf } from "./location.js";
import { Days, actionsText, actorText, inDays, named, useForm } from "./secrets.js";
import { get, post, remove } from "./server.js";
import { isCovered, may, useSession } from "./session.js";
import { moment, t } from "./words.js";
import "./words_security.js";

const REASON_MIN = 10;
const EVERY_MS = 60_000;

/** Told when a grant was given or ended here, so that the banner knows. */
const changed = new EventTarget();

export function BreakGlass({ close }) {
  const [kind, setKind] = useState("patient");
  const [value, setValue] = useState("");
  const [reason, setReason] = useState("");
  const [hours, setHours] = useState("1");
  const { isBusy, error, submit } = useForm(async () => {
    await post("api/break-glass", { ...(kind === "patient" ? { patient: { id: value.trim() } } : { study: value.trim() }), reason: reason.trim(), hours: Number(hours) });
    changed.dispatchEvent(new Event("change"));
    close();
    go(...(kind === "patient" ? [["patient"], { PatientID: value.trim() }] : [["study", value.trim()]]));
  });
  return html`<${Dialog} title=${t("glass")} close=${close}><form class="form stacked" onSubmit=${submit}><p>${t("glass.about")}</p><div class="fields">
      <label>${t("glass.what")} <select value=${kind} onChange=${(event) => setKind(event.currentTarget.value)}><option value="patient">${t("PatientID")}</option><option value="study">Study Instance UID</option></select></label>
      <label>${t("value")} <input required autofocus autocomplete="off" spellcheck=${false} maxlength="128" value=${value} onInput=${(event) => setValue(event.currentTarget.value)} /></label></div>
    <label>${t("glass.hours")} <select value=${hours} onChange=${(event) => setHours(event.currentTarget.value)}>${[1, 2, 4, 8].map((count) => html`<option value=${count} selected=${String(count) === hours}>${count}</option>`)}</select></label>
    <label>${t("reason")} <input required minlength=${REASON_MIN} maxlength="500" autocomplete="off" value=${reason} onInput=${(event) => setReason(event.currentTarget.value)} aria-describedby="glass-reason" /></label><small class="quiet" id="glass-reason">${t("glass.reason")}</small>
    <${Failure} error=${error} /><p class="buttons"><button type="submit" class="main danger" disabled=${isBusy}>${t("glass.do")}</button><button type="button" onClick=${close}>${t("cancel")}</button></p></form><//>`;
}

/** Emergency access that is open for this user, on top of every view. */
export function GlassBanner() {
  const { facts } = useSession();
  const [grants, setGrants] = useState([]);
  const isOpen = (grant) => grant.to === "user" && grant.name.toLowerCase() === facts.user.toLowerCase() && grant.is_break_glass && new Date(grant.until) > Date.now();
  const ask = () => get("api/grants?emergency=true&limit=500").then((answer) => setGrants(answer.grants.filter(isOpen)), () => {});
  useEffect(() => {
    ask();
    const timer = setInterval(() => document.hidden || isCovered() || ask(), EVERY_MS);
    changed.addEventListener("change", ask);
    return () => {
      clearInterval(timer);
      changed.removeEventListener("change", ask);
    };
  }, []);
  const end = (grant) => async () => {
    await remove(`api/grants/${encodeURIComponent(grant.id)}`);
    await ask();
  };
  return grants.map((grant) => html`<div class="banner" role="status" key=${grant.id}><strong>${t("glass.open")}</strong>
    ${grant.patient ? html`<a href=${hashOf(["patient"], { PatientID: grant.patient.id })}>${t("PatientID")} ${grant.patient.id}</a>` : html`<a href=${hashOf(["study", grant.studies[0]])}>${t("study")}</a>`}
    <span>${t("glass.until", { until: moment(grant.until) })}</span> <${Action} label=${t("glass.end")} work=${end(grant)} /></div>`);
}

/** All grants: the emergencies that nobody has reviewed first. */
export function Grants() {
  const [isNew, setNew] = useState(false);
  const what = (grant) => (grant.patient ? `${t("PatientID")} ${grant.patient.id}` : grant.studies.map((study) => html`<div><a href=${hashOf(["study", study])}><code>${study}</code></a></div>`));
  const isUrgent = (grant) => grant.is_break_glass && !grant.reviewed;
  const isOver = (grant) => grant.until && new Date(grant.until) <= Date.now();
  return html`<p class="quiet">${t("grants.about")}</p><${Listed} path="api/grants?limit=500">${({ grants }, again) => {
    const act = (work) => async () => {
      await work();
      changed.dispatchEvent(new Event("change"));
      again();
    };
    return html`${may("administer") && html`<p><button type="button" onClick=${() => setNew(true)}>${t("grants.add")}</button></p>`}
      <${Table} label=${t("grants")} empty=${t("grants.none")} columns=${[t("grants.to"), t("shares.what"), t("may"), t("until"), t("by"), t("reason"), t("grants.review"), t("queues.actions")]}
        rows=${[...grants].sort((one, other) => Number(isUrgent(other)) - Number(isUrgent(one))).map((grant) => [
          html`${grant.is_break_glass && html`<strong class="state failed">${t("glass")}</strong><br />`}${grant.to === "role" ? named("role", grant.name) : grant.name}`, what(grant), actionsText(grant.actions),
          html`${moment(grant.until)}${isOver(grant) ? html`<br /><small>${t("share.ended")}</small>` : ""}`, actorText(grant.by), grant.reason || "–", grant.is_break_glass ? (grant.reviewed ? `${moment(grant.reviewed)} ${actorText(grant.reviewed_by)}` : t("grants.unreviewed")) : "–",
          html`<span class="buttons">${isUrgent(grant) && may("audit") && html`<${Action} label=${t("grants.reviewed")} work=${act(() => post(`api/grants/${encodeURIComponent(grant.id)}/review`))} />`}
            ${!isOver(grant) && may("administer") && html`<${Action} label=${t("revoke")} kind="danger" confirm=${t("sure")} work=${act(() => remove(`api/grants/${encodeURIComponent(grant.id)}`))} />`}</span>`])} />
      ${isNew && html`<${NewGrant} close=${() => { setNew(false); again(); }} />`}`;
  }}<//>`;
}

/** Opens single studies, or a patient, for a user or for all users of a role. */
function NewGrant({ close }) {
  const [values, setValues] = useState({ to: "user", name: "", kind: "study", value: "", days: "30", reason: "" });
  const set = (name) => (event) => {
    const { value } = event.currentTarget;
    setValues((before) => ({ ...before, [name]: value }));
  };
  const { isBusy, error, submit } = useForm(async () => {
    const { to, name, kind, value, days, reason } = values;
    const what = kind === "patient" ? { patient: { id: value.trim() } } : { studies: value.split(/[\s,]+/).filter(Boolean) };
    await post("api/grants", { to, name, reason, ...what, ...(days && { until: inDays(days) }) });
    close();
  });
  return html`<${Dialog} title=${t("grants.add")} close=${close}><form class="form stacked" onSubmit=${submit}><div class="fields">
      <label>${t("grants.to")} <select value=${values.to} onChange=${set("to")}><option value="user">${t("login.user")}</option><option value="role">${t("role")}</option></select></label>
      <label>${t("saved.name")} <input required autofocus autocomplete="off" value=${values.name} onInput=${set("name")} /></label>
      <label>${t("glass.what")} <select value=${values.kind} onChange=${set("kind")}><option value="study">Study Instance UID</option><option value="patient">${t("PatientID")}</option></select></label>
      <label>${t("value")} <input required autocomplete="off" spellcheck=${false} value=${values.value} onInput=${set("value")} /></label></div>
    <${Days} label=${t("until")} value=${values.days} changed=${(days) => setValues({ ...values, days })} mayBeForever />
    <label>${t("reason")} <input maxlength="1000" autocomplete="off" value=${values.reason} onInput=${set("reason")} /></label>
    <${Failure} error=${error} /><p class="buttons"><button type="submit" class="main" disabled=${isBusy}>${t("grants.do")}</button></p></form><//>`;
}
