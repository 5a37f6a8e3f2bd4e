// The sessions of a user: where somebody is logged in, and the end of each.

import { html } from "./preact.mjs";
import { Action, Table } from "./parts.js";
import { remove } from "./server.js";
import { moment, t } from "./words.js";

/** The browser and the system, out of a User-Agent. */
function agentOf(agent) {
  const browser = /(Edg|OPR|Firefox|Chrome|Safari)\/(\d+)/.exec(agent.replace(/Chrome(?=.*(Edg|OPR))/, "")) ?? [];
  const system = /Windows|Android|iPhone|iPad|Mac OS X|Linux/.exec(agent)?.[0] ?? "";
  return [browser[1]?.replace("Edg", "Edge").replace("OPR", "Opera"), browser[2], system].filter(Boolean).join(" ") || agent || "–";
}

/** `path`: where each one is ended. */
export function Sessions({ sessions, path, changed }) {
  const end = (one) => async () => {
    await remove(`${path}/${encodeURIComponent(one.id)}`);
    changed();
  };
  return html`<${Table} label=${t("sessions")} columns=${[t("sessions.began"), t("used"), t("address"), t("sessions.with"), t("sessions.by"), t("queues.actions")]}
    rows=${sessions.map((one) => [moment(one.created), moment(one.used), one.address || "–", html`<span title=${one.agent}>${agentOf(one.agent)}</span>`, t(`method.${one.method}`),
      one.is_own ? html`<em>${t("sessions.this")}</em>` : html`<${Action} label=${t("sessions.end")} kind="danger" work=${end(one)} />`])} />`;
}
