// Keeps a filter of one's own in this browser, under a name, or drops one.

import { html, useState } from "./preact.mjs";
import { Dialog } from "./parts.js";
import { t } from "./words.js";

const KEPT_MAX = 50;
/** Kept only on wish: whoever uses this browser next sees it. */
const IDENTIFYING = ["PatientName", "PatientID", "PatientBirthDate", "AccessionNumber"];

export function SavedDialog({ query, kept, keep, close }) {
  const [name, setName] = useState("");
  const [isWhole, setWhole] = useState(false);
  const hasPatient = IDENTIFYING.some((field) => query.get(field));
  const save = (event) => {
    event.preventDefault();
    const filters = new URLSearchParams(query);
    if (!isWhole) for (const field of IDENTIFYING) filters.delete(field);
    keep([...kept.filter((one) => one.name !== name.trim()), { name: name.trim(), query: String(filters) }].slice(-KEPT_MAX));
    close();
  };
  return html`<${Dialog} title=${t("saved")} close=${close}>
    <form onSubmit=${save}><p>${t("saved.about")}</p>
      <p><label>${t("saved.name")} <input required maxlength="40" value=${name} onInput=${(event) => setName(event.currentTarget.value)} /></label></p>
      ${hasPatient && html`<p><label><input type="checkbox" checked=${isWhole} onChange=${(event) => setWhole(event.currentTarget.checked)} /> ${t("saved.whole")}</label></p>`}
      <p><button class="main">${t("saved.save")}</button></p></form>
    <ul class="plain">${kept.map((one) => html`<li key=${one.name}>${one.name} <button type="button" class="danger" aria-label=${t("saved.remove", { name: one.name })} onClick=${() => keep(kept.filter((other) => other !== one))}>${t("saved.drop")}</button></li>`)}</ul>
  <//>`;
}
