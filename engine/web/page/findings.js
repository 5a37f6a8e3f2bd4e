// What `filmroom doctor --security` finds: how safe the running configuration is, and what to do.

import { html } from "./preact.mjs";
import { Listed } from "./parts.js";
import { t } from "./words.js";
import "./words_security.js";

const SIGNS = { fault: "✕", warning: "!", good: "✓" };
const ORDER = Object.keys(SIGNS);

/** The worst first. */
const sorted = (findings) => [...findings].sort((one, other) => ORDER.indexOf(one.verdict) - ORDER.indexOf(other.verdict));

export function Findings() {
  return html`<p class="quiet">${t("findings.about")}</p><${Listed} path="api/security">${({ findings }) => html`<ul class="plain findings" aria-label=${t("findings")}>${sorted(findings).map((one) => html`<li class=${one.verdict}>
    <strong><span class="sign" aria-hidden="true">${SIGNS[one.verdict]}</span> <span class="unseen">${t(`finding.${one.verdict}`)}: </span>${one.subject === "security" ? "" : `${one.subject}: `}${one.what}</strong>${one.advice && html`<br /><span class="quiet">${one.advice}</span>`}</li>`)}</ul>`}<//>`;
}
