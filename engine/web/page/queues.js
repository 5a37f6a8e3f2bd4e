// Jobs that send and pull: how far they are, what failed, again, no more.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, Table, useAnswer, useEvery } from "./parts.js";
import { bytesOf } from "./dicom.js";
import { get, post } from "./server.js";
import { moment, t } from "./words.js";

const EVERY_MS = 2000;

export function Queues() {
  const { value, error, isLoading, again } = useAnswer((signal) => get("api/jobs?limit=200", signal), []);
  const [job, setJob] = useState(null);
  useEvery(EVERY_MS, again);
  const jobs = value?.jobs ?? [];
  const failed = jobs.filter((one) => one.state === "failed");
  const active = jobs.filter((one) => one.state === "waiting" || one.state === "running");
  const each = (some, what) => async () => {
    for (const one of some) await post(`api/jobs/${encodeURIComponent(one.id)}/${what}`);
    again();
  };
  return html`<section class="page-part"><h1>${t("queues")}</h1>
    <${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    <p class="buttons">
      ${failed.length > 0 && html`<${Action} label=${t("retry.all", { count: failed.length })} work=${each(failed, "retry")} />`}
      ${active.length > 0 && html`<${Action} label=${t("cancel.all", { count: active.length })} confirm=${t("sure")} work=${each(active, "cancel")} />`}
    </p>
    ${value && html`<${Table} label=${t("queues")} empty=${t("queues.none")}
      columns=${[t("job"), t("peer"), t("state"), t("progress"), t("size"), t("began"), ""]}
      rows=${jobs.map((one) => [t(`job.${one.kind}`), one.peer, html`<span class=${`state ${one.state}`}>${t(`state.${one.state}`)}</span>`,
        html`<progress max=${one.total || 1} value=${one.completed ?? 0} aria-label=${t("progress")}></progress> ${one.completed ?? 0} / ${one.total ?? "?"}${one.failed_count ? `, ${t("failed", { count: one.failed_count })}` : ""}`,
        bytesOf(one.bytes ?? 0), moment(one.created ?? one.began),
        html`<span class="buttons"><button type="button" onClick=${() => setJob(one.id)}>${t("details")}</button>
          ${one.state === "failed" && html`<${Action} label=${t("retry")} work=${each([one], "retry")} />`}
          ${(one.state === "waiting" || one.state === "running") && html`<${Action} label=${t("cancel")} work=${each([one], "cancel")} />`}</span>`])} />`}
    ${job && html`<${Details} job=${job} close=${() => setJob(null)} />`}
  </section>`;
}

function Details({ job, close }) {
  const { value, error } = useAnswer((signal) => get(`api/jobs/${encodeURIComponent(job)}`, signal), [job]);
  return html`<${Dialog} title=${t("details")} close=${close}><${Failure} error=${error} />
    ${value && html`<pre class="scrolled" tabindex="0">${JSON.stringify(value, null, 2)}</pre>`}<//>`;
}
