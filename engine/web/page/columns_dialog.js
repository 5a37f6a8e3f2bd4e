// Which columns the list of studies has.

import { html } from "./preact.mjs";
import { Dialog } from "./parts.js";
import { COLUMNS, keepColumns } from "./columns.js";
import { t } from "./words.js";

export function ColumnsDialog({ columns, changed, close }) {
  const names = columns.map(({ name }) => name);
  const choose = (name) => (event) => {
    const next = COLUMNS.map((column) => column.name).filter((each) => (each === name ? event.currentTarget.checked : names.includes(each)));
    if (!next.length) return;
    keepColumns(next);
    changed();
  };
  const reset = () => {
    keepColumns(null);
    changed();
  };
  return html`<${Dialog} title=${t("columns")} close=${close}>
    <ul class="plain">${COLUMNS.map(({ name }) => html`<li key=${name}><label><input type="checkbox" checked=${names.includes(name)} onChange=${choose(name)} /> ${t(name)}</label></li>`)}</ul>
    <p><button type="button" onClick=${reset}>${t("columns.reset")}</button></p>
  <//>`;
}
