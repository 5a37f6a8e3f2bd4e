// One's own account: who one is here, password, second factor, passkeys, sessions, API keys.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Listed, Loading, Table, useAnswer } from "./parts.js";
import { Keys } from "./keys.js";
import { NewPassword } from "./login.js";
import { makePasskey } from "./passkeys.js";
import { QrCode } from "./qr_code.js";
import { Once, actionsText, rolesText, useForm } from "./secrets.js";
import { learn, logOut, may, useSession } from "./session.js";
import { Sessions } from "./sessions.js";
import { Shares } from "./shares.js";
import { post, remove } from "./server.js";
import { moment, t } from "./words.js";

export function Account() {
  const { facts } = useSession();
  const [dialog, setDialog] = useState(facts.must_change_password ? "password" : null);
  return html`<section class="page-part"><h1>${facts.full_name || facts.user} <small>${facts.user}</small></h1>
    <p>${t("account.roles", { roles: rolesText(facts.roles) })}<br /><span class="quiet">${t("account.may", { actions: actionsText(facts.may) })}</span></p>
    <p class="buttons"><button type="button" onClick=${() => setDialog("password")}>${t("password.change")}</button><${Action} label=${t("logout")} work=${logOut} /></p>
    ${!facts.must_change_password && html`<${Listed} path="api/account">${(account, again) => html`<${Factors} account=${account} changed=${again} />
      <h2>${t("sessions")}</h2><${Sessions} sessions=${account.sessions} path="api/account/sessions" changed=${again} />`}<//>
    ${may("share") && html`<h2>${t("shares")}</h2><${Shares} />`}
    <h2>${t("keys.api")}</h2><${Keys} />`}
    ${dialog === "password" && html`<${ChangePassword} isForced=${facts.must_change_password} close=${() => { setDialog(null); learn(); }} />`}
  </section>`;
}

function ChangePassword({ isForced, close }) {
  const [old, setOld] = useState("");
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [isDone, setDone] = useState(false);
  const { isBusy, error, submit } = useForm(async () => {
    await post("api/account/password", { old, new: password });
    setDone(true);
  });
  return html`<${Dialog} title=${t("password.change")} close=${close}>${isDone ? html`<p role="status">${t("password.changed")}</p>` : html`<form class="form stacked" onSubmit=${submit}>
    ${isForced && html`<p>${t("password.must")}</p>`}
    <label>${t("password.old")} <input type="password" autocomplete="current-password" autofocus required value=${old} onInput=${(event) => setOld(event.currentTarget.value)} /></label>
    <${NewPassword} password=${password} setPassword=${setPassword} again=${again} setAgain=${setAgain} />
    <${Failure} error=${error} /><p class="buttons"><button type="submit" class="main" disabled=${isBusy || password !== again}>${t("save")}</button></p></form>`}<//>`;
}

/** What proves the identity beside the password. */
function Factors({ account, changed }) {
  const [name, setName] = useState("");
  const [dialog, setDialog] = useState(null);
  const drop = (passkey) => async () => {
    await remove(`api/account/passkeys/${encodeURIComponent(passkey.id)}`);
    changed();
  };
  const add = async () => {
    await makePasskey(name || t("passkey"));
    setName("");
    changed();
  };
  const close = () => {
    setDialog(null);
    changed();
  };
  return html`<h2>${t("factors")}</h2><p>${t(account.has_totp ? "totp.on" : "totp.off", { count: account.recovery_codes })} ${account.has_totp
      ? html`<button type="button" class="danger" onClick=${() => setDialog("off")}>${t("totp.remove")}</button>` : html`<button type="button" onClick=${() => setDialog("on")}>${t("totp.set")}</button>`}</p>
    <${Table} label=${t("passkeys")} empty=${t("passkeys.none")} columns=${[t("passkey"), t("created"), t("queues.actions")]}
      rows=${account.passkeys.map((one) => [one.name, moment(one.created), html`<${Action} label=${t("remove")} kind="danger" confirm=${t("sure")} work=${drop(one)} />`])} />
    ${window.PublicKeyCredential && html`<p class="buttons"><label>${t("passkey.name")} <input maxlength="60" value=${name} onInput=${(event) => setName(event.currentTarget.value)} /></label> <${Action} label=${t("passkey.add")} work=${add} /></p>`}
    ${dialog === "on" && html`<${NewTotp} hasPassword=${account.has_password} close=${close} />`}${dialog === "off" && html`<${EndTotp} hasPassword=${account.has_password} close=${close} />`}`;
}

const PasswordAgain = ({ value, changed }) => html`<label>${t("password.old")} <input type="password" autocomplete="current-password" required value=${value} onInput=${(event) => changed(event.currentTarget.value)} /></label>`;
const Code = ({ value, changed }) => html`<label>${t("totp.code")} <input inputmode="numeric" autocomplete="one-time-code" required value=${value} onInput=${(event) => changed(event.currentTarget.value)} /></label>`;

/** An authenticator app: its secret, then a code that proves that the app has it. */
function NewTotp({ hasPassword, close }) {
  const offer = useAnswer(() => post("api/account/totp"), []);
  const [code, setCode] = useState("");
  const [password, setPassword] = useState("");
  const [recovery, setRecovery] = useState(null);
  const { isBusy, error, submit } = useForm(async () => setRecovery((await post("api/account/totp", { secret: offer.value.secret, code, password })).recovery_codes));
  return html`<${Dialog} title=${t("totp.set")} close=${close}><${Loading} isLoading=${offer.isLoading} /><${Failure} error=${offer.error} />
    ${recovery && html`<p role="status">${t("totp.done")}</p><${Once} text=${recovery.join("  ")} label=${t("totp.recovery")} />`}
    ${offer.value && !recovery && html`<form class="form stacked" onSubmit=${submit}><p>${t("totp.about")}</p>
      <${QrCode} text=${offer.value.uri} label=${t("totp.qr")} /><p>${t("totp.secret")} <code>${offer.value.secret}</code></p>
      <${Code} value=${code} changed=${setCode} />${hasPassword && html`<${PasswordAgain} value=${password} changed=${setPassword} />`}
      <${Failure} error=${error} /><p class="buttons"><button type="submit" class="main" disabled=${isBusy}>${t("totp.confirm")}</button></p></form>`}<//>`;
}

function EndTotp({ hasPassword, close }) {
  const [password, setPassword] = useState("");
  const { isBusy, error, submit } = useForm(async () => {
    await post("api/account/totp/off", { password });
    close();
  });
  return html`<${Dialog} title=${t("totp.remove")} close=${close}><form class="form stacked" onSubmit=${submit}><p>${t("totp.off")}</p>
    ${hasPassword && html`<${PasswordAgain} value=${password} changed=${setPassword} />`}
    <${Failure} error=${error} /><p class="buttons"><button type="submit" class="danger" disabled=${isBusy}>${t("totp.remove")}</button></p></form><//>`;
}
