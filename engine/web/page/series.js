// The series of a study as cards with thumbnails, and the summary of a study beside the list.

import { html, useEffect, useState } from "./preact.mjs";
import { Failure, Loading, useAnswer } from "./parts.js";
import { TAGS, dateOf, number, pathOf, text, texts, timeOf } from "./dicom.js";
import { hashOf } from "./location.js";
import { useViewer, viewerHref } from "./ohif.js";
import { getDicom, urlOf } from "./server.js";
import { may } from "./session.js";
import { t } from "./words.js";

const FIELDS = "includefield=SeriesDescription&includefield=BodyPartExamined&includefield=SeriesDate&includefield=SeriesTime";
/** Before the series of the selected row are asked for: whoever moves through the list asks for nothing. */
const SETTLED_MS = 150;

/** By number, then time, then UID: as the modality counted them. */
function inOrder(series) {
  const key = (one) => [number(one, TAGS.seriesNumber), text(one, TAGS.seriesDate) + text(one, TAGS.seriesTime), text(one, TAGS.series)];
  const compare = (a, b) => (a === b || (a !== a && b !== b) ? 0 : a < b || b !== b ? -1 : 1);
  return [...series].sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    return compare(a[0], b[0]) || compare(a[1], b[1]) || compare(a[2], b[2]);
  });
}

export const seriesOf = async (study, signal) => inOrder(await getDicom(`${pathOf(study)}/series?${FIELDS}`, signal));

export const titleOf = (series) => text(series, TAGS.seriesDescription) || t("series.number", { number: text(series, TAGS.seriesNumber) || "–" });

/** What is shown beside the list for the selected study. */
export function Summary({ row, close }) {
  const study = text(row, TAGS.study);
  const [isSettled, setSettled] = useState(false);
  const viewer = useViewer();
  useEffect(() => {
    const timer = setTimeout(() => setSettled(true), SETTLED_MS);
    return () => clearTimeout(timer);
  }, []);
  return html`<aside class="summary" aria-label=${t("study")}>
    <header><h2>${text(row, TAGS.patientName) || t("unnamed")}</h2><button type="button" onClick=${close}>${t("close")}</button></header>
    <p>${text(row, TAGS.description) || t("no.description")}</p>
    <p class="quiet">${dateOf(text(row, TAGS.studyDate))} ${timeOf(text(row, TAGS.studyTime))} · ${texts(row, TAGS.modalities)}</p>
    <p class="buttons">${may("retrieve") && html`<a class="button main" href=${viewerHref(viewer, study, texts(row, TAGS.modalities))}>${t("view")}</a>`}
      <a class="button" href=${hashOf(["study", study])}>${t("open")}</a></p>
    ${isSettled && html`<${SeriesList} study=${study} />`}
  </aside>`;
}

/** The series of a study, each a link to the viewer. */
export function SeriesList({ study, kind = "" }) {
  const { value, error, isLoading } = useAnswer((signal) => seriesOf(study, signal), [study]);
  return html`<${Loading} isLoading=${isLoading && !value} /><${Failure} error=${error} />
    <ul class=${`series ${kind}`}>${(value ?? []).map((one) => html`<li key=${text(one, TAGS.series)}><${SeriesCard} study=${study} series=${one} /></li>`)}</ul>`;
}

export function SeriesCard({ study, series }) {
  const uid = text(series, TAGS.series);
  return html`<a class="card" href=${may("retrieve") ? hashOf(["view", study, uid]) : undefined}>
    ${may("retrieve") && html`<img loading="lazy" width="96" height="96" alt="" onError=${(event) => event.currentTarget.classList.add("broken")} onLoad=${(event) => event.currentTarget.classList.remove("broken")} src=${urlOf(`${pathOf(study, uid)}/thumbnail`)} />`}
    <span><strong>${titleOf(series)}</strong><br />
      <span class="quiet">${text(series, TAGS.seriesNumber) && `${text(series, TAGS.seriesNumber)} · `}${text(series, TAGS.modality)} ${text(series, TAGS.bodyPart)} · ${t("images", { count: text(series, TAGS.seriesInstances) })}</span></span>
  </a>`;
}
