// Users and roles: who may log in and what each may do; links for new users and for lost passwords.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Listed, Table, useAnswer } from "./parts.js";
import { Choice, Once, actionsText, named, rolesText, useForm } from "./secrets.js";
import { Sessions } from "./sessions.js";
import { get, patch, post, remove } from "./server.js";
import { moment, t } from "./words.js";

/** What rules of roles compare with studies. */
const ATTRIBUTES = ["referrer", "department", "institution"];

const pathOf = (user) => `api/users/${encodeURIComponent(user.name)}`;

export function Users() {
  const [dialog, setDialog] = useState(null);
  return html`<${Listed} path="api/users?limit=500">${({ users }, again) => {
    const change = (user, body) => async () => {
      await patch(pathOf(user), body);
      again();
    };
    const close = () => {
      setDialog(null);
      again();
    };
    const invite = async (user) => setDialog({ kind: "link", user, link: (await post(`${pathOf(user)}/link`)).link });
    return html`<p class="quiet">${t("users.about")}</p>
      <p class="buttons"><button type="button" class="main" onClick=${() => setDialog({ kind: "edit", user: null })}>${t("users.add")}</button></p>
      <${Table} label=${t("users")} empty=${t("users.none")} columns=${[t("login.user"), t("roles"), t("state"), t("factors"), t("created"), t("queues.actions")]}
        rows=${users.map((user) => [html`<strong>${user.name}</strong>${user.full_name && html`<br /><small>${user.full_name}</small>`}`, rolesText(user.roles),
          html`<span class=${user.is_disabled ? "state failed" : ""}>${t(user.is_disabled ? "users.disabled" : user.has_password || user.source ? "users.active" : "users.invited")}</span>${user.source && html`<br /><small>${user.source}</small>`}`,
          [user.has_totp && t("totp"), user.passkeys_count > 0 && t("passkey")].filter(Boolean).join(", ") || "–", moment(user.created),
          html`<span class="buttons"><button type="button" onClick=${() => setDialog({ kind: "edit", user })} aria-label=${`${t("edit")} ${user.name}`}>${t("edit")}</button>
            <${Action} label=${t("users.link")} work=${() => invite(user)} />
            <button type="button" onClick=${() => setDialog({ kind: "sessions", user })} aria-label=${`${t("sessions")} ${user.name}`}>${t("sessions")}</button>
            ${user.is_disabled ? html`<${Action} label=${t("users.enable")} work=${change(user, { is_disabled: false })} />` : html`<${Action} label=${t("users.disable")} kind="danger" confirm=${t("users.disable.sure", { user: user.name })} work=${change(user, { is_disabled: true })} />`}
            ${user.has_totp && html`<${Action} label=${t("totp.remove")} kind="danger" confirm=${t("users.totp.sure", { user: user.name })} work=${change(user, { has_totp: false })} />`}
            <${Action} label=${t("remove")} kind="danger" confirm=${t("users.remove.sure", { user: user.name })} work=${async () => { await remove(pathOf(user)); again(); }} /></span>`])} />
      <${Roles} />
      ${dialog?.kind === "edit" && html`<${Editor} user=${dialog.user} close=${close} done=${(user, link) => (link ? setDialog({ kind: "link", user, link }) : close())} />`}
      ${dialog?.kind === "link" && html`<${Dialog} title=${t("users.link")} close=${close}><p>${t("users.link.about", { user: dialog.user.name })}</p><${Once} text=${dialog.link} label=${t("link")} isLink /><//>`}
      ${dialog?.kind === "sessions" && html`<${Dialog} title=${`${t("sessions")}: ${dialog.user.name}`} close=${close}><${Listed} path=${pathOf(dialog.user)}>${(user, changed) => html`<${Sessions} sessions=${user.sessions} path=${`${pathOf(user)}/sessions`} changed=${changed} />`}<//><//>`}`;
  }}<//>`;
}

/** Adds or changes a user. A new one gets a link, and chooses a password. */
function Editor({ user, close, done }) {
  const known = useAnswer((signal) => get("api/roles", signal), []);
  const [values, setValues] = useState({ name: user?.name ?? "", full_name: user?.full_name ?? "", roles: user?.roles ?? [], attributes: user?.attributes ?? {} });
  const set = (name, value) => setValues((before) => ({ ...before, [name]: value }));
  const { isBusy, error, submit } = useForm(async () => {
    const { name, ...others } = values;
    if (user) {
      await patch(pathOf(user), others);
      done(user);
    } else {
      const made = await post("api/users", values);
      done(made, made.link);
    }
  });
  const text = (name) => (values.attributes[name] ?? []).join("; ");
  return html`<${Dialog} title=${user ? user.name : t("users.add")} close=${close}><form class="form stacked" onSubmit=${submit}><div class="fields">
      <label>${t("login.user")} <input required maxlength="64" autofocus=${!user} disabled=${Boolean(user)} autocapitalize="none" autocomplete="off" value=${values.name} onInput=${(event) => set("name", event.currentTarget.value)} /></label>
      <label>${t("users.full_name")} <input maxlength="200" autocomplete="off" value=${values.full_name} onInput=${(event) => set("full_name", event.currentTarget.value)} /></label></div>
    <${Choice} legend=${t("roles")} options=${(known.value?.roles ?? []).map((role) => [role.name, named("role", role.name)])} chosen=${values.roles} changed=${(roles) => set("roles", roles)} />
    <details open=${Object.keys(values.attributes).length > 0}><summary>${t("users.attributes")}</summary><p class="quiet">${t("users.attributes.about")}</p><div class="fields">
      ${ATTRIBUTES.map((name) => html`<label>${t(`attribute.${name}`)} <input defaultValue=${text(name)} autocomplete="off" onInput=${(event) => set("attributes", { ...values.attributes, [name]: event.currentTarget.value.split(";").map((one) => one.trim()).filter(Boolean) })} /></label>`)}</div></details>
    <${Failure} error=${error ?? known.error} /><p class="buttons"><button type="submit" class="main" disabled=${isBusy}>${t("save")}</button><button type="button" onClick=${close}>${t("cancel")}</button></p></form><//>`;
}

/** A role's studies in words. */
const studiesText = (studies) => (Array.isArray(studies) ? studies.map((rule) => Object.entries(rule).filter(([, value]) => value !== null && value.length !== 0).map(([name, value]) => `${named("attribute", name)}: ${Array.isArray(value) ? value.join(" | ") : value}`).join(", ")).join("; ") : t(`studies.${studies}`));

function Roles() {
  return html`<h2>${t("roles")}</h2><p class="quiet">${t("roles.about")}</p><${Listed} path="api/roles">${({ roles }) => html`<${Table} label=${t("roles")} columns=${[t("role"), t("may"), t("studies")]}
    rows=${roles.map((role) => [html`<strong>${named("role", role.name)}</strong>`, actionsText(role.may), studiesText(role.studies)])} />`}<//>`;
}
