// What somebody outside sees who was given a link: the shared studies, their images, and a download if that is allowed.

import { html, useEffect, useRef, useState } from "./preact.mjs";
import { Action, Failure, Loading, useAnswer } from "./parts.js";
import { TAGS, dateOf, pathOf, text, texts } from "./dicom.js";
import { go } from "./location.js";
import { SeriesList } from "./series.js";
import { getDicom, remove, urlOf } from "./server.js";
import { logIn, may, useSession } from "./session.js";
import { useViewer, viewerHref } from "./ohif.js";
import { moment, t } from "./words.js";
import "./words_security.js";

const FIELDS = ["StudyDescription", "InstitutionName"].map((name) => `&includefield=${name}`).join("");

export function Shared({ share }) {
  const { value, error, isLoading } = useAnswer((signal) => getDicom(`dicom-web/studies?limit=100${FIELDS}`, signal), []);
  const viewer = useViewer();
  return html`<section class="page-part"><h1>${t("shared")}</h1><p class="quiet">${t("shared.about", { until: moment(share.until) })}</p>
    <${Loading} isLoading=${isLoading} /><${Failure} error=${error} />
    ${value && !value.length && html`<p>${t("shared.none")}</p>`}
    ${(value ?? []).map((row) => {
      const study = text(row, TAGS.study);
      return html`<article key=${study}><h2>${text(row, TAGS.patientName) || t("unnamed")}</h2>
        <p>${text(row, TAGS.description) || t("no.description")}<br /><span class="quiet">${dateOf(text(row, TAGS.studyDate))} · ${texts(row, TAGS.modalities)}</span></p>
        <p class="buttons"><a class="button main" href=${viewerHref(viewer, study, texts(row, TAGS.modalities))}>${t("view")}</a>
          ${may("retrieve") && share.may_download && html`<a class="button" download href=${urlOf(`${pathOf(study)}?accept=application/zip`)}>${t("download")}</a>`}</p>
        <${SeriesList} study=${study} kind="wide" /></article>`;
    })}</section>`;
}

/** The door of a share: asks for its password, if it has one. */
export function Door({ token }) {
  const { facts } = useSession();
  const [password, setPassword] = useState("");
  const [state, setState] = useState({ isBusy: true, needsPassword: false, error: null });
  const enter = async () => {
    setState((before) => ({ ...before, isBusy: true, error: null }));
    try {
      await logIn("api/share-session", { token, password }, () => go([], undefined, true));
    } catch (error) {
      // The first attempt asks whether there is a password at all.
      setState({ isBusy: false, needsPassword: Boolean(error.facts?.needs_password), error: error.facts?.needs_password && !password ? null : error });
    }
  };
  const submit = (event) => {
    event.preventDefault();
    enter();
  };
  useEffect(() => { if (!facts.user) enter(); }, []);
  const field = useRef(null);
  useEffect(() => { if (state.needsPassword) field.current.focus(); }, [state.needsPassword]);
  // Somebody who is logged in has his own rights, and would not see what the link shows.
  const leave = async () => {
    await remove("api/session");
    location.reload();
  };
  if (facts.user) return html`<section><h1 id="cover-title">${t("shared")}</h1><p>${t("door.inside", { user: facts.user })}</p><p class="buttons"><${Action} label=${t("door.leave")} work=${leave} /><button type="button" onClick=${() => go([], undefined, true)}>${t("cancel")}</button></p></section>`;
  const { error } = state;
  const refusal = error && (error.status === 429 ? { message: t("login.later", { seconds: error.facts.retry ?? "…" }) } : error.status === 401 ? { message: t("door.wrong") } : error.status === 404 ? { message: t("door.none") } : error);
  return html`<section><h1 id="cover-title">${t("shared")}</h1><${Loading} isLoading=${state.isBusy} />${state.needsPassword && html`<p class="quiet">${t("door.about")}</p><form class="form stacked" onSubmit=${submit}>
      <label>${t("login.password")} <input type="password" ref=${field} required autocomplete="off" value=${password} onInput=${(event) => setPassword(event.currentTarget.value)} /></label>
      <p class="buttons"><button type="submit" class="main" disabled=${state.isBusy}>${t("open")}</button></p></form>`}<${Failure} error=${refusal} /></section>`;
}
