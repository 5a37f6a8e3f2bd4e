// Sends studies, series or instances to a peer, and shows how far it is while one looks.

import { html, useState } from "./preact.mjs";
import { Action, Dialog, Failure, Loading, useAnswer, useEvery } from "./parts.js";
import { bytesOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { get, post } from "./server.js";
import { may } from "./session.js";
import { t } from "./words.js";

const EVERY_MS = 1000;

/** `what`: {studies, series, instances}, lists of UIDs. */
export function Send({ what, close }) {
  const { value, error, isLoading } = useAnswer((signal) => get("api/destinations", signal), []);
  const [job, setJob] = useState(null);
  const peers = value?.peers ?? [];
  const send = (peer) => async () => setJob((await post("api/jobs", { kind: "send", peer: peer.aet, ...what })).id);
  return html`<${Dialog} title=${t("send")} close=${close}><${Loading} isLoading=${isLoading} /><${Failure} error=${error} />
    ${job !== null
      ? html`<${Progress} job=${job} />`
      : html`<p>${t("send.to")}</p><ul class="plain">${peers.map((peer) => html`<li><${Action} label=${`${peer.aet} (${peer.url || `${peer.host}:${peer.port}`})`} work=${send(peer)} /></li>`)}</ul>
        ${value && !peers.length && html`<p>${t("peers.none")}</p>`}`}
  <//>`;
}

function Progress({ job }) {
  const { value, error, again } = useAnswer((signal) => get(`api/jobs/${encodeURIComponent(job)}`, signal), [job]);
  const isOver = value && !["waiting", "running"].includes(value.state);
  useEvery(EVERY_MS, () => isOver || again());
  return html`<${Failure} error=${error} />
    ${value && html`<p role="status"><span class=${`state ${value.state}`}>${t(`state.${value.state}`)}</span>: ${value.completed ?? 0} / ${value.total ?? "?"}, ${bytesOf(value.bytes ?? 0)}${value.failed_count ? `, ${t("failed", { count: value.failed_count })}` : ""}</p>
      <progress max=${value.total || 1} value=${value.completed ?? 0} aria-label=${t("progress")}></progress>
      <${Failure} error=${value.error ? { message: value.error } : null} />
      ${!isOver && html`<p class="buttons"><${Action} label=${t("cancel")} work=${async () => { await post(`api/jobs/${encodeURIComponent(job)}/cancel`); again(); }} /></p>`}`}
    <p>${t("send.begun")} ${may("observe") && html`<a href=${hashOf(["queues"])}>${t("queues")}</a>`}</p>`;
}
