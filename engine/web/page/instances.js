// The instances of a series, and the elements of one of them as a tree with search.

import { html, useMemo, useState } from "./preact.mjs";
import { Copy, Dialog, Failure, Loading, Table, useAnswer } from "./parts.js";
import { TAGS, number, pathOf, text } from "./dicom.js";
import { get, getDicom, urlOf } from "./server.js";
import { t } from "./words.js";

const PAGE_ROWS = 1000;
const ELEMENTS_MAX = 2000;

/** `chosen`: SOP Instance UIDs; `choose(uid, isChosen)`. */
export function Instances({ study, series, title, chosen, choose, close }) {
  const [instance, setInstance] = useState(null);
  const [count, setCount] = useState(PAGE_ROWS);
  const { value, error, isLoading } = useAnswer(
    (signal) => getDicom(`${pathOf(study, series)}/instances?limit=${count}&includefield=NumberOfFrames`, signal), [series, count]);
  const rows = useMemo(
    () => [...(value ?? [])].sort((one, other) => (number(one, TAGS.instanceNumber) || 0) - (number(other, TAGS.instanceNumber) || 0)), [value]);
  const isMore = value?.length === count;
  return html`<${Dialog} title=${title} close=${close}>
    <${Loading} isLoading=${isLoading} /><${Failure} error=${error} />
    ${instance
      ? html`<p class="buttons"><button type="button" onClick=${() => setInstance(null)}>← ${t("instances")}</button>
          <a class="button" href=${urlOf(`${pathOf(study, series, instance)}`)} download=${`${instance}.dcm`}>${t("download.one")}</a></p><${TagTree} instance=${instance} />`
      : value && html`<p><${Copy} text=${series} /> <code>${series}</code></p>
        <${Table} label=${t("instances")} columns=${["", "#", t("frames"), "SOP Instance UID", ""]}
          rows=${rows.map((row) => {
            const uid = text(row, TAGS.instance);
            return [html`<input type="checkbox" aria-label=${t("choose.instance", { number: text(row, TAGS.instanceNumber) || uid })} checked=${chosen.has(uid)} onChange=${(event) => choose(uid, event.currentTarget.checked)} />`,
              text(row, TAGS.instanceNumber), text(row, TAGS.frames) || "1", html`<code>${uid}</code>`,
              html`<button type="button" onClick=${() => setInstance(uid)}>${t("tags")}</button>`];
          })} />
        ${isMore && html`<p><button type="button" onClick=${() => setCount(count + PAGE_ROWS)}>${t("more")}</button></p>`}`}
  <//>`;
}

function TagTree({ instance }) {
  const { value, error, isLoading } = useAnswer((signal) => get(`api/instances/${encodeURIComponent(instance)}/tags`, signal), [instance]);
  const [typed, setTyped] = useState("");
  const rows = useMemo(() => flat(value?.elements ?? [], 0), [value]);
  const needle = typed.toLowerCase().replace(/[(),]/g, "");
  const matching = rows.filter((row) => !needle || `${row.tag} ${row.keyword} ${row.value}`.toLowerCase().replace(/[(),]/g, "").includes(needle));
  const isCut = value?.truncated || matching.length > ELEMENTS_MAX;
  return html`<${Loading} isLoading=${isLoading} /><${Failure} error=${error} />
    <p><label>${t("search")} <input type="search" value=${typed} onInput=${(event) => setTyped(event.currentTarget.value)} /></label>
      <span class="quiet" role="status"> ${value && t("tags.count", { count: matching.length })} ${isCut && t("tags.cut")}</span></p>
    <p><${Copy} text=${instance} /> <code>${instance}</code> <span class="quiet">${value?.transfer_syntax_uid}</span></p>
    <div class="scrolled" tabindex="0"><table class="tags" aria-label=${t("tags")}><tbody>${matching.slice(0, ELEMENTS_MAX).map((row) => html`<tr>
      <td><code>${"\u00a0\u00a0".repeat(row.depth)}(${row.tag.slice(0, 4)},${row.tag.slice(4)})</code></td><td>${row.keyword}</td><td>${row.vr}</td><td class="value">${row.value}</td>
    </tr>`)}</tbody></table></div>`;
}

function flat(elements, depth) {
  return elements.flatMap((element) => [
    { depth, tag: element.tag, keyword: element.keyword ?? "", vr: element.vr ?? "", value: element.value ?? (element.bulk ? "…" : "") },
    ...(element.items ?? []).flatMap((item) => flat(item.elements ?? item, depth + 1)),
  ]);
}
