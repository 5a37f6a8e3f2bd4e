// The plain viewer: frames as the server renders them; scroll, window, zoom, pan, cine. It is for looking, not for reporting.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./preact.mjs";
import { Failure, Loading, isTyping, useAnswer } from "./parts.js";
import { TAGS, number, pathOf, text, values } from "./dicom.js";
import { go, hashOf } from "./location.js";
import { getDicom, urlOf } from "./server.js";
import { t } from "./words.js";

/** Frames fetched ahead of the one that is shown. */
const AHEAD = 6;
const PRESETS = [
  ["preset.own", null], ["preset.soft", [40, 400]], ["preset.lung", [-600, 1500]], ["preset.bone", [400, 1800]], ["preset.brain", [40, 80]],
];
/** SOP classes without pixels that the server renders as a page of text, or gives as PDF. */
const DOCUMENTS = /^1\.2\.840\.10008\.5\.1\.4\.1\.1\.(88|104)\./;

/** All frames of a series in the order in which one scrolls: by position along the normal, else by number. */
function framesOf(instances) {
  const keyed = instances.map((instance) => ({ instance, place: alongNormal(instance), number: number(instance, TAGS.instanceNumber) || 0 }));
  const hasPlaces = keyed.every(({ place }) => Number.isFinite(place)) && new Set(keyed.map(({ place }) => place.toFixed(2))).size === keyed.length;
  keyed.sort((one, other) => (hasPlaces ? one.place - other.place : one.number - other.number));
  return keyed.flatMap(({ instance }) => {
    const count = number(instance, TAGS.frames) || 1;
    const uid = text(instance, TAGS.instance);
    return Array.from({ length: count }, (_, index) => ({ instance, uid, frame: index + 1, count }));
  });
}

function alongNormal(instance) {
  const place = values(instance, TAGS.position).map(Number);
  const axes = values(instance, TAGS.orientation).map(Number);
  if (place.length !== 3 || axes.length !== 6) return NaN;
  const [a, b, c, d, e, f] = axes;
  return (b * f - c * e) * place[0] + (c * d - a * f) * place[1] + (a * e - b * d) * place[2];
}

/** A study without the name of a series is shown from its first one. */
export function Viewer({ study, series, query }) {
  return series ? html`<${Series} study=${study} series=${series} query=${query} />` : html`<${FirstSeries} study=${study} />`;
}

function FirstSeries({ study }) {
  const { value, error, isLoading } = useAnswer((signal) => getDicom(`${pathOf(study)}/series`, signal), [study]);
  const first = [...(value ?? [])].sort((one, other) => (number(one, TAGS.seriesNumber) || 0) - (number(other, TAGS.seriesNumber) || 0))[0];
  useEffect(() => {
    if (first) go(["view", study, text(first, TAGS.series)], null, true);
  }, [value]);
  return html`<${Failure} error=${error} /><${Loading} isLoading=${isLoading} />${value && !first && html`<p>${t("nothing")}</p>`}`;
}

function Series({ study, series, query }) {
  const { value, error, isLoading } = useAnswer((signal) => getDicom(`${pathOf(study, series)}/metadata`, signal), [study, series]);
  const others = useAnswer((signal) => getDicom(`${pathOf(study)}/series?includefield=SeriesDescription`, signal), [study]);
  const frames = useMemo(() => framesOf(value ?? []), [value]);
  return html`<section class="viewer" aria-label=${t("viewer")}>
    <${Failure} error=${error} /><${Loading} isLoading=${isLoading} />
    ${value && !frames.length && html`<p>${t("nothing")}</p>`}
    ${frames.length > 0 && html`<${Stack} key=${series} study=${study} series=${series} frames=${frames} others=${others.value ?? []} query=${query} />`}
  </section>`;
}

function Stack({ study, series, frames, others, query }) {
  const [index, setIndex] = useState(() => Math.min(frames.length, Math.max(1, Number(query.get("image")) || 1)) - 1);
  const [windowing, setWindowing] = useState(null);
  const [view, setView] = useState({ zoom: 1, x: 0, y: 0, isInverted: false });
  const [isPlaying, setPlaying] = useState(false);
  const [isBroken, setBroken] = useState(false);
  /** A stream has no pictures of its frames: the browser plays it, if it knows its codec. */
  const [isVideo, setVideo] = useState(false);
  const surface = useRef(null);
  const drag = useRef(null);
  const { instance, uid, frame } = frames[index];
  const isDocument = DOCUMENTS.test(text(instance, TAGS.sopClass));
  const own = [number(instance, TAGS.center), number(instance, TAGS.width)];
  const isGrey = /^MONOCHROME/.test(text(instance, TAGS.photometric));
  const current = windowing ?? (Number.isFinite(own[0]) && own[1] > 0 ? own : null);

  const pictureOf = ({ uid: one, frame: number }) => {
    const path = `${pathOf(study, series, one)}/frames/${number}/rendered`;
    const wanted = windowing && isGrey ? `&window=${windowing[0].toFixed(1)},${windowing[1].toFixed(1)},linear` : "";
    return urlOf(`${path}?quality=90${wanted}`);
  };
  const show = (next) => {
    setBroken(false);
    setIndex(Math.max(0, Math.min(frames.length - 1, next)));
  };
  const reset = () => {
    setWindowing(null);
    setView({ zoom: 1, x: 0, y: 0, isInverted: false });
  };
  const move = (step) => {
    const place = others.findIndex((one) => text(one, TAGS.series) === series) + step;
    if (others[place]) go(["view", study, text(others[place], TAGS.series)], null, true);
  };

  // The next pictures, in the direction in which one goes, wait in the browser's cache.
  const last = useRef(index);
  useEffect(() => {
    const step = index < last.current ? -1 : 1;
    last.current = index;
    const ahead = Array.from({ length: AHEAD }, (_, place) => frames[index + step * (place + 1)]).filter(Boolean);
    const pictures = ahead.map((one) => Object.assign(new Image(), { src: pictureOf(one) }));
    return () => pictures.forEach((picture) => picture.complete || (picture.src = ""));
  }, [index, windowing]);

  useEffect(() => {
    if (!isPlaying) return undefined;
    const pause = Math.max(33, number(instance, TAGS.frameTime) || 100);
    const timer = setInterval(() => setIndex((before) => (before + 1) % frames.length), pause);
    return () => clearInterval(timer);
  }, [isPlaying]);

  const keys = {
    ArrowDown: () => show(index + 1), ArrowUp: () => show(index - 1), ArrowRight: () => show(index + 1), ArrowLeft: () => show(index - 1),
    Home: () => show(0), End: () => show(frames.length - 1), PageDown: () => move(1), PageUp: () => move(-1),
    " ": reset, c: () => setPlaying(!isPlaying), i: () => setView({ ...view, isInverted: !view.isInverted }),
    "+": () => setView({ ...view, zoom: Math.min(16, view.zoom * 1.25) }), "-": () => setView({ ...view, zoom: Math.max(0.25, view.zoom / 1.25) }),
    Escape: () => go(["study", study]),
    ...Object.fromEntries(PRESETS.map(([, preset], place) => [String(place + 1), () => isGrey && setWindowing(preset)])),
  };
  useLayoutEffect(() => {
    const pressed = (event) => {
      const work = keys[event.key];
      if (!work || isTyping(event) || event.ctrlKey || document.querySelector("dialog[open]") || event.target.closest?.("button, a") && event.key === " ") return;
      event.preventDefault();
      work();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
  useEffect(() => {
    const wheel = (event) => {
      event.preventDefault();
      if (event.ctrlKey) setView((before) => ({ ...before, zoom: Math.max(0.25, Math.min(16, before.zoom * (event.deltaY < 0 ? 1.1 : 1 / 1.1))) }));
      else show(index + Math.sign(event.deltaY));
    };
    surface.current.addEventListener("wheel", wheel, { passive: false });
    return () => surface.current?.removeEventListener("wheel", wheel);
  }, [index]);

  // Left button: window, as most viewers have it; with shift, or the middle one: pan.
  const press = (event) => {
    event.currentTarget.setPointerCapture(event.pointerId);
    drag.current = { x: event.clientX, y: event.clientY, isPan: event.shiftKey || event.button === 1, view, window: current ?? [128, 256] };
  };
  const dragged = (event) => {
    const from = drag.current;
    if (!from) return;
    const [dx, dy] = [event.clientX - from.x, event.clientY - from.y];
    if (from.isPan) setView({ ...from.view, x: from.view.x + dx, y: from.view.y + dy });
    else if (isGrey && Math.abs(dx) + Math.abs(dy) > 3) {
      const scale = Math.max(1, from.window[1] / 400);
      setWindowing([Math.round(from.window[0] + dy * scale), Math.max(1, Math.round(from.window[1] + dx * scale))]);
    }
  };
  const release = () => {
    drag.current = null;
  };
  const style = { transform: `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`, filter: view.isInverted ? "invert(1)" : "none" };
  return html`
    <div class="viewer-bar">
      <a class="button" href=${hashOf(["study", study])}>← ${t("study")}</a>
      <select aria-label=${t("series")} value=${series} onChange=${(event) => go(["view", study, event.currentTarget.value], null, true)}>
        ${others.map((one) => html`<option value=${text(one, TAGS.series)} selected=${text(one, TAGS.series) === series}>
          ${text(one, TAGS.seriesNumber)} ${text(one, TAGS.modality)} ${text(one, TAGS.seriesDescription)}</option>`)}
      </select>
      ${!isDocument && !isVideo && html`
        ${isGrey && html`<span role="group" aria-label=${t("window")}>${PRESETS.map(([name, preset]) => html`<button type="button" onClick=${() => setWindowing(preset)}>${t(name)}</button>`)}</span>`}
        <button type="button" aria-pressed=${view.isInverted} onClick=${keys.i}>${t("invert")}</button>
        ${frames.length > 1 && html`<button type="button" aria-pressed=${isPlaying} onClick=${keys.c}>${isPlaying ? t("pause") : t("play")}</button>`}
        <button type="button" onClick=${reset}>${t("reset")}</button>`}
    </div>
    ${isVideo && html`<div class="surface" ref=${surface}><video class="picture" controls loop autoplay muted aria-label=${t("image")} src=${urlOf(`${pathOf(study, series, uid)}/rendered?accept=video/mp4`)} onError=${() => { setVideo(false); setBroken(true); }}></video></div>`}
    ${isVideo ? "" : isDocument
      ? html`<p class="document"><a class="button main" target="_blank" rel="noopener" href=${urlOf(`${pathOf(study, series, uid)}/rendered`)}>${t("document.open")}</a></p><div ref=${surface}></div>`
      : html`<div class="surface" ref=${surface} onPointerDown=${press} onPointerMove=${dragged} onPointerUp=${release} onPointerCancel=${release}>
          <img class="picture" alt=${t("image.of", { index: index + 1, count: frames.length })} draggable=${false} style=${style} src=${pictureOf(frames[index])}
            onLoad=${() => setBroken(false)} onError=${() => (frames[index].count > 1 && !isBroken ? setVideo(true) : setBroken(true))} />
          ${isBroken && html`<p class="failure" role="alert">${t("image.broken")}</p>`}
          <p class="corner upper">${text(instance, TAGS.patientName)}<br />${text(instance, TAGS.patientId)}</p>
          <p class="corner lower">${index + 1} / ${frames.length}<br />${current && isGrey ? `W ${Math.round(current[1])} L ${Math.round(current[0])}` : ""}</p>
        </div>`}
    ${frames.length > 1 && !isVideo && html`<input class="slider" type="range" min="1" max=${frames.length} value=${index + 1} aria-label=${t("image")} onInput=${(event) => show(Number(event.currentTarget.value) - 1)} />`}
    <p class="quiet notice">${t("viewer.notice")}</p>`;
}
