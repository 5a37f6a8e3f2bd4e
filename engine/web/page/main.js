// The frame of the page: where one is, where one can go, light or dark, and the language.

import { forgetResponses } from "./first.js";
import { html, render, useEffect, useLayoutEffect, useState } from "./preact.mjs";
import { go, hashOf, here, listHash } from "./location.js";
import { Dialog, Failure, Table, isTyping, lazily } from "./parts.js";
import { learn, may, useSession } from "./session.js";
import { Studies } from "./studies.js";
import { uploads } from "./uploads.js";
import { LANGUAGES, language, setLanguage, t } from "./words.js";

// The list is there at once; the scripts of other views are fetched when they are opened.
const Account = lazily(async () => (await import("./account.js")).Account);
const Administration = lazily(async () => (await import("./administration.js")).Administration);
const Cover = lazily(async () => (await import("./login.js")).Cover);
const GlassBanner = lazily(async () => (await import("./break_glass.js")).GlassBanner);
const Health = lazily(async () => (await import("./health.js")).Health);
const Patient = lazily(async () => (await import("./patient.js")).Patient);
const Queues = lazily(async () => (await import("./queues.js")).Queues);
const Shared = lazily(async () => (await import("./shared.js")).Shared);
const Study = lazily(async () => (await import("./study.js")).Study);
const Upload = lazily(async () => (await import("./upload.js")).Upload);
const Worklist = lazily(async () => (await import("./worklist.js")).Worklist);
const Viewer = lazily(async () => (await import("./viewer.js")).Viewer);

/** The places of the head, and the actions of which one makes each of use. */
const PLACES = {
  studies: ["query"], worklist: ["worklist", "workitem", "correct", "manage"], upload: ["store"], queues: ["observe"], health: ["observe"],
  administration: ["observe", "configure", "manage", "restore", "administer", "audit"],
};
const KEYS = [
  ["/", "key.search"], ["↑ ↓ PgUp PgDn Home End", "key.move"], ["Enter", "key.open"], ["o", "key.view"], ["Space", "key.choose"], ["p", "key.patient"], ["y", "key.copy"], ["s", "key.send"], ["h", "key.hold"], ["Esc", "key.close"], ["?", "key.help"],
  ["↑ ↓", "key.scroll"], ["PgUp PgDn", "key.series"], ["1 – 5", "key.preset"], ["c", "key.cine"], ["i", "key.invert"], ["+ –", "key.zoom"], ["Space", "key.reset"],
];

/** Where somebody begins who named no place. */
const firstPlace = () => Object.keys(PLACES).find((name) => may(...PLACES[name])) ?? "account";

function View({ place }) {
  const [name = firstPlace(), ...rest] = place.path;
  const { facts } = useSession();
  if (facts.must_change_password) return html`<${Account} />`;
  if (facts.share && name !== "view") return html`<${Shared} share=${facts.share} />`;
  if (name in PLACES && !may(...PLACES[name])) return html`<section class="page-part"><h1>${t(name)}</h1><p>${t("forbidden")}</p></section>`;
  if (name === "study" && rest[0]) return html`<${Study} key=${rest[0]} study=${rest[0]} />`;
  if (name === "patient") return html`<${Patient} query=${place.query} />`;
  if (name === "view" && rest[0]) return html`<${Viewer} key=${rest[1]} study=${rest[0]} series=${rest[1]} query=${place.query} />`;
  if (name === "upload") return html`<${Upload} />`;
  if (name === "worklist") return html`<${Worklist} view=${rest[0]} />`;
  if (name === "queues") return html`<${Queues} view=${rest[0]} />`;
  if (name === "health") return html`<${Health} />`;
  if (name === "account" && facts.user) return html`<${Account} />`;
  if (name === "account") return html`<section class="page-part"><h1>Filmroom</h1><p>${t("account.none")}</p></section>`;
  if (name === "administration") return html`<${Administration} view=${rest[0]} />`;
  return html`<${Studies} query=${place.query} />`;
}

function Page() {
  const [place, setPlace] = useState(here());
  const [isHelp, setHelp] = useState(false);
  const [, setTurn] = useState(0);
  const [isOver, setOver] = useState(false);
  useLayoutEffect(() => {
    const nameOf = ({ path }) => path.join("/") || firstPlace();
    let view = nameOf(here());
    const moved = () => {
      const next = here();
      setPlace(next);
      // A new view begins at its beginning, for keys and for screen readers.
      if (view !== nameOf(next)) document.getElementById("view").focus();
      view = nameOf(next);
    };
    const pressed = (event) => {
      if (isTyping(event) || event.defaultPrevented || document.querySelector("dialog[open]")) return;
      if (event.key === "?") setHelp(true);
      if (event.key === "Escape" && here().path[0] === "study") location.hash = listHash();
    };
    addEventListener("hashchange", moved);
    addEventListener("keydown", pressed);
    return () => {
      removeEventListener("hashchange", moved);
      removeEventListener("keydown", pressed);
    };
  }, []);
  // Files may be dropped wherever one is.
  const dropped = (event) => {
    event.preventDefault();
    setOver(false);
    if (!may("store") || ![...event.dataTransfer.types].includes("Files")) return;
    uploads.addDropped(event.dataTransfer);
    go(["upload"]);
  };
  const over = (event) => {
    if (!may("store") || ![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    setOver(true);
  };
  useEffect(() => {
    const leave = (event) => uploads.counts.waiting > 0 && event.preventDefault();
    addEventListener("beforeunload", leave);
    return () => removeEventListener("beforeunload", leave);
  }, []);
  const current = place.path[0] ?? firstPlace();
  /** A link that lets somebody in: to an account, or to what is shared. */
  const isDoor = current === "welcome" || current === "s";
  const { facts, cover } = useSession();
  const theme = () => {
    const next = document.documentElement.dataset.theme === "light" ? "dark" : "light";
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
  };
  return html`<div class="frame" onDragOver=${over} onDragLeave=${(event) => event.relatedTarget || setOver(false)} onDrop=${dropped}>
    <a class="skip" href="#view" onClick=${(event) => { event.preventDefault(); document.getElementById("view").focus(); }}>${t("skip")}</a>
    <header class="top">
      <strong class="brand">Filmroom</strong>
      ${facts.may && !facts.share && html`<nav aria-label=${t("main")}>${Object.keys(PLACES).filter((name) => may(...PLACES[name])).map((name) => html`<a href=${hashOf([name])} aria-current=${name === current ? "page" : undefined}>${t(name)}</a>`)}</nav>`}
      <span class="tools">
        ${facts.user && html`<a class="button" href=${hashOf(["account"])} aria-current=${current === "account" ? "page" : undefined} aria-label=${t("account.of", { user: facts.user })}>${facts.user}</a>`}
        <button type="button" onClick=${() => setHelp(true)} aria-label=${t("keys")}>?</button>
        <button type="button" onClick=${theme} aria-label=${t("theme")}>◐</button>
        <select aria-label=${t("language")} value=${language()} onChange=${(event) => { setLanguage(event.currentTarget.value); setTurn((turn) => turn + 1); }}>
          ${Object.entries(LANGUAGES).map(([code, { name }]) => html`<option value=${code} selected=${code === language()}>${name}</option>`)}
        </select>
      </span>
    </header>
    ${facts.user && may("break-glass") && html`<${GlassBanner} />`}
    <main id="view" tabindex="-1" class=${isOver ? "over" : ""}>${facts.may && !isDoor && html`<${View} key=${language()} place=${place} />`}</main>
    ${(cover || isDoor) && html`<${Cover} cover=${cover} />`}
    ${isHelp && html`<${Dialog} title=${t("keys")} close=${() => setHelp(false)}><${Table} label=${t("keys")} columns=${[t("key"), t("meaning")]} rows=${KEYS.map(([key, name]) => [html`<kbd>${key}</kbd>`, t(name)])} /><p><a href="docs/" target="_blank">${t("documentation")}</a></p><//>`}
  </div>`;
}

document.documentElement.dataset.theme = localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark");

/** Shows the page when it is known who is there, or why that is not known. */
async function show() {
  const root = document.getElementById("page");
  try {
    await learn();
    render(html`<${Page} />`, root);
    forgetResponses();
  } catch (error) {
    render(html`<main class="page-part"><${Failure} error=${error} /><button type="button" onClick=${show}>${t("retry")}</button></main>`, root);
  }
}
show();
