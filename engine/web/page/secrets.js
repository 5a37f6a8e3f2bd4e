// Parts that the views of accounts share: forms, names of roles and actions, and what is shown only once.

import { html, useEffect, useRef, useState } from "./preact.mjs";
import { copyText } from "./parts.js";
import { QrCode } from "./qr_code.js";
import { t } from "./words.js";

/** The word for a name of the server's, or the name: {role, action, audit kind} may have names of one's own. */
export function named(prefix, name) {
  const text = t(`${prefix}.${name}`);
  return text === `${prefix}.${name}` ? name : text;
}

export const rolesText = (roles) => roles.map((role) => named("role", role)).join(", ") || "–";
export const actionsText = (actions) => actions.filter((action) => action !== "associate" && action !== "commit").map((action) => named("action", action)).join(", ") || "–";

/** Who did something, without the way in which this person came. */
export const actorText = (by) => by.replace(/^http:/, "");

/** {isBusy, error, submit}: a form that does `work` when it is sent. */
export function useForm(work) {
  const [state, setState] = useState({ isBusy: false, error: null });
  const submit = async (event) => {
    event.preventDefault();
    setState({ isBusy: true, error: null });
    try {
      await work();
      setState({ isBusy: false, error: null });
    } catch (error) {
      setState({ isBusy: false, error });
    }
  };
  return { ...state, submit };
}

/** What nobody can look up again: to copy now. `isLink`: a QR code for a telephone too. */
export function Once({ text, label, isLink }) {
  const [isCopied, setCopied] = useState(false);
  const button = useRef(null);
  useEffect(() => button.current.focus(), []);
  const copy = async () => {
    await copyText(text);
    setCopied(true);
  };
  return html`<div class="note once"><p><strong>${label}</strong> <span class="quiet">${t("once")}</span></p>
    <p><code>${text}</code></p><p><button type="button" class="main" ref=${button} onClick=${copy}>${t(isCopied ? "copied" : "copy")}</button></p>
    ${isLink && html`<${QrCode} text=${text} label=${t("qr.link")} />`}</div>`;
}

/** Check boxes of a set: `options` are [name, text]. */
export function Choice({ legend, options, chosen, changed }) {
  const toggle = (name, isOn) => changed(isOn ? [...chosen, name] : chosen.filter((other) => other !== name));
  return html`<fieldset><legend>${legend}</legend>${options.map(([name, text]) => html`<label><input type="checkbox" checked=${chosen.includes(name)} onChange=${(event) => toggle(name, event.currentTarget.checked)} /> ${text}</label> `)}</fieldset>`;
}

/** Days from now as a select; "": for ever, if `mayBeForever`. */
export function Days({ label, value, changed, choices = [1, 7, 30, 90, 365], mayBeForever }) {
  return html`<label>${label} <select value=${value} onChange=${(event) => changed(event.currentTarget.value)}>
    ${choices.map((days) => html`<option value=${days} selected=${String(days) === String(value)}>${t(days === 1 ? "days.one" : "days", { days })}</option>`)}
    ${mayBeForever && html`<option value="" selected=${value === ""}>${t("days.forever")}</option>`}</select></label>`;
}

/** The moment some days from now, in ISO 8601. */
export const inDays = (days) => new Date(Date.now() + Number(days) * 86_400_000).toISOString();
