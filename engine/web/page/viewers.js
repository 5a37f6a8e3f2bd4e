// Links that open a study in programs on the reader's own computer.

import { html } from "./preact.mjs";
import { useAnswer } from "./parts.js";
import { get, urlOf } from "./server.js";
import { may } from "./session.js";

/** Other texts must not become commands of these programs. */
const UID = /^[0-9.]{1,128}$/;

/** Weasis fetches by DICOMweb. RadiAnt by DICOM, from the PACS that it knows under our AE title. */
export function ViewerLinks({ study }) {
  const { value } = useAnswer(async (signal) => (may("observe") ? get("api/settings", signal) : null), []);
  const aet = value?.settings.find((setting) => setting.key === "aet")?.value;
  if (!UID.test(study)) return null;
  const weasis = `$dicom:rs --url "${urlOf("dicom-web")}" -r "studyUID=${study}"`;
  const radiant = `radiant://?n=paet&v=${encodeURIComponent(aet ?? "")}&n=pstv&v=0020000D&v=${encodeURIComponent(`"${study}"`)}`;
  return html`<a class="button" href=${`weasis://${encodeURIComponent(weasis)}`}>Weasis</a>
    ${aet && html`<a class="button" href=${radiant}>RadiAnt</a>`}`;
}
