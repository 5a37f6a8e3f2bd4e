// What covers the page: the log-in, the link that makes an account or a new password, and the lock after a while without anybody.

import { html, useEffect, useRef, useState } from "./preact.mjs";
import { Failure, Loading, useAnswer } from "./parts.js";
import { go, here } from "./location.js";
import { logIn, logOut, useSession, wake } from "./session.js";
import { post, urlOf } from "./server.js";
import { Door } from "./shared.js";
import { usePasskey } from "./passkeys.js";
import { t } from "./words.js";
import "./words_security.js";

/** Nothing behind it can be seen, read out or reached by keys; Escape does not close it. */
export function Cover({ cover }) {
  const element = useRef(null);
  useEffect(() => element.current.showModal(), []);
  const stay = (event) => event.preventDefault();
  const reopen = () => element.current?.showModal();
  const [kind, token] = here().path;
  return html`<dialog class="cover" ref=${element} closedby="none" onCancel=${stay} onClose=${reopen} aria-labelledby="cover-title"><div>
    ${cover === "idle" ? html`<${Idle} />` : kind === "welcome" ? html`<${Welcome} token=${token} />` : kind === "s" ? html`<${Door} token=${token} />` : html`<${Login} />`}</div></dialog>`;
}

function Idle() {
  const { facts } = useSession();
  const [error, setError] = useState(null);
  const goOn = () => wake().catch(setError);
  return html`<section><h1 id="cover-title">${t("idle")}</h1><p>${t("idle.about", { user: facts.user })}</p><${Failure} error=${error} />
    <p class="buttons"><button type="button" class="main" autofocus onClick=${goOn}>${t("idle.on")}</button><button type="button" onClick=${() => logOut().catch(setError)}>${t("logout")}</button></p></section>`;
}

/** {isBusy, error, run}: one attempt at a time. */
function useAttempt() {
  const [state, setState] = useState({ isBusy: false, error: null });
  const run = async (work) => {
    setState({ isBusy: true, error: null });
    try {
      await work();
    } catch (error) {
      // Whoever closes the browser's own question has changed his mind.
      setState({ isBusy: false, error: error.name === "NotAllowedError" ? null : error });
    }
  };
  return { ...state, run };
}

/** What a refusal means to the person in front of it. */
function Refusal({ error }) {
  if (!error) return null;
  if (error.status === 429) return html`<p class="failure" role="alert">${t("login.later", { seconds: error.facts.retry ?? "…" })}</p>`;
  return html`<${Failure} error=${error.status === 401 ? { message: t(error.facts.needs_code ? "login.code.needed" : "login.wrong") } : error} />`;
}

/** Why the identity provider's page led back without a session: "refused", "unavailable", or null. */
const problemElsewhere = new URLSearchParams(location.search).get("login");
if (problemElsewhere) history.replaceState(null, "", location.pathname + location.hash);

function Login() {
  const { facts } = useSession();
  const [user, setUser] = useState(facts.user ?? "");
  const [password, setPassword] = useState("");
  const [code, setCode] = useState("");
  const [needsCode, setNeedsCode] = useState(false);
  const { isBusy, error, run } = useAttempt();
  const methods = facts.methods ?? ["password"];
  const submit = (event) => {
    event.preventDefault();
    run(async () => {
      try {
        await logIn("api/session", { user, password, ...(code ? { code } : {}) });
      } catch (failure) {
        if (failure.facts?.needs_code) setNeedsCode(true);
        else setPassword("");
        setCode("");
        throw failure;
      }
    });
  };
  const field = useRef(null);
  useEffect(() => { if (needsCode) field.current.focus(); }, [needsCode]);
  return html`<section><h1 id="cover-title">Filmroom</h1><p class="quiet">${t(facts.may ? "login.again" : "login.about")}</p>
    ${problemElsewhere && html`<p class="failure" role="alert">${t(problemElsewhere === "refused" ? "login.refused" : "login.unavailable")}</p>`}
    ${methods.includes("password") && html`<form class="form stacked" onSubmit=${submit}>
      <label>${t("login.user")} <input name="user" autocomplete="username" autocapitalize="none" spellcheck=${false} required autofocus=${!user} value=${user} onInput=${(event) => setUser(event.currentTarget.value)} /></label>
      <label>${t("login.password")} <input name="password" type="password" autocomplete="current-password" required autofocus=${Boolean(user)} value=${password} onInput=${(event) => setPassword(event.currentTarget.value)} /></label>
      ${needsCode && html`<label>${t("login.code")} <input name="code" ref=${field} autocomplete="one-time-code" inputmode="numeric" value=${code} onInput=${(event) => setCode(event.currentTarget.value)} /></label>`}
      <${Refusal} error=${error} />
      <p class="buttons"><button type="submit" class="main" disabled=${isBusy}>${t("login")}</button></p></form>`}
    <p class="buttons">
      ${methods.includes("passkey") && window.PublicKeyCredential && html`<button type="button" disabled=${isBusy} onClick=${() => run(usePasskey)}>${t("login.passkey")}</button>`}
      ${(facts.providers ?? []).map((provider) => html`<a class="button" href=${urlOf(`${provider.path}?back=${encodeURIComponent(location.hash)}`)}>${t("login.provider", { name: provider.name })}</a>`)}</p></section>`;
}

/** A link that was given out once: who opens it chooses a password. */
function Welcome({ token }) {
  const [password, setPassword] = useState("");
  const [again, setAgain] = useState("");
  const [user, setUser] = useState("");
  const { isBusy, error, run } = useAttempt();
  const isSame = password === again;
  const link = useAnswer(() => post("api/welcome", { token }, true), [token]);
  const owner = link.value?.user;
  const submit = (event) => {
    event.preventDefault();
    if (!isSame) return;
    run(async () => {
      await logIn("api/welcome", { token, user: owner ? "" : user, password }, () => go(["account"], undefined, true));
    });
  };
  if (!link.value) return html`<section><h1 id="cover-title">${t("welcome")}</h1><${Loading} isLoading=${link.isLoading} /><${Failure} error=${link.error && (link.error.status === 404 ? { message: t("welcome.over") } : link.error)} /></section>`;
  return html`<section><h1 id="cover-title">${t("welcome")}</h1><p class="quiet">${t(owner ? "welcome.about" : "welcome.first")}</p><form class="form stacked" onSubmit=${submit}>
    <label>${t("login.user")} <input autocomplete="username" autocapitalize="none" required autofocus=${!owner} disabled=${Boolean(owner)} value=${owner ?? user} onInput=${(event) => setUser(event.currentTarget.value)} /></label>
    <${NewPassword} password=${password} setPassword=${setPassword} again=${again} setAgain=${setAgain} />
    <${Failure} error=${error} />
    <p class="buttons"><button type="submit" class="main" disabled=${isBusy || !isSame}>${t("welcome.do")}</button></p></form></section>`;
}

/** A new password, typed twice. */
export function NewPassword({ password, setPassword, again, setAgain }) {
  const isWrong = again !== "" && password !== again;
  return html`<label>${t("password.new")} <input type="password" autocomplete="new-password" required minlength="12" value=${password} onInput=${(event) => setPassword(event.currentTarget.value)} aria-describedby="password-about" /></label>
    <small id="password-about" class="quiet">${t("password.about")}</small>
    <label>${t("password.again")} <input type="password" autocomplete="new-password" required value=${again} onInput=${(event) => setAgain(event.currentTarget.value)} aria-invalid=${isWrong ? "true" : undefined} /></label>
    ${isWrong && html`<p class="failure" role="alert">${t("password.differs")}</p>`}`;
}
