// One's own account: who one is here, and the end of the session.

import { html } from "./preact.mjs";
import { Action } from "./parts.js";
import { actionsText, rolesText } from "./secrets.js";
import { logOut, useSession } from "./session.js";
import { t } from "./words.js";
import "./words_security.js";

export function Account() {
  const { facts } = useSession();
  return html`<section class="page-part"><h1>${facts.full_name || facts.user} <small>${facts.user}</small></h1>
    <p>${t("account.roles", { roles: rolesText(facts.roles) })}<br /><span class="quiet">${t("account.may", { actions: actionsText(facts.may) })}</span></p>
    <p class="buttons"><${Action} label=${t("logout")} work=${logOut} /></p>
  </section>`;
}
