// API keys: for programs that use DICOMweb and the archive API as a user, with some of the user's roles.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Listed, Table } from "./parts.js";
import { Choice, Days, Once, inDays, named, rolesText, useForm } from "./secrets.js";
import { post, remove } from "./server.js";
import { useSession } from "./session.js";
import { moment, t } from "./words.js";

export function Keys() {
  const [isNew, setNew] = useState(false);
  return html`<p class="quiet">${t("keys.about")}</p><${Listed} path="api/keys">${({ keys }, again) => html`
    <${Table} label=${t("keys.api")} empty=${t("keys.none")} columns=${[t("saved.name"), t("login.user"), t("roles"), t("created"), t("until"), t("queues.actions")]}
      rows=${keys.map((key) => [key.name, key.user, key.roles.length ? rolesText(key.roles) : t("keys.all"), moment(key.created), moment(key.until),
        html`<${Action} label=${t("revoke")} kind="danger" confirm=${t("keys.revoke.sure", { name: key.name })} work=${async () => { await remove(`api/keys/${encodeURIComponent(key.id)}`); again(); }} />`])} />
    <p><button type="button" onClick=${() => setNew(true)}>${t("keys.add")}</button></p>
    ${isNew && html`<${NewKey} close=${() => { setNew(false); again(); }} />`}`}<//>`;
}

function NewKey({ close }) {
  const { facts } = useSession();
  const [name, setName] = useState("");
  const [roles, setRoles] = useState(facts.roles);
  const [days, setDays] = useState("365");
  const [secret, setSecret] = useState(null);
  const { isBusy, error, submit } = useForm(async () => setSecret((await post("api/keys", { name, roles: roles.length === facts.roles.length ? [] : roles, until: inDays(days) })).key));
  return html`<${Dialog} title=${t("keys.add")} close=${close}>${secret ? html`<${Once} text=${secret} label=${t("keys.made", { name })} /><p class="quiet">${t("keys.use")}</p>` : html`<form class="form stacked" onSubmit=${submit}>
    <label>${t("saved.name")} <input required maxlength="100" autofocus value=${name} onInput=${(event) => setName(event.currentTarget.value)} /></label>
    <${Choice} legend=${t("roles")} options=${facts.roles.map((role) => [role, named("role", role)])} chosen=${roles} changed=${setRoles} />
    <${Days} label=${t("until")} value=${days} changed=${setDays} />
    <${Failure} error=${error} /><p class="buttons"><button type="submit" class="main" disabled=${isBusy || !roles.length}>${t("keys.make")}</button></p></form>`}<//>`;
}
