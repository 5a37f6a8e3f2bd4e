// The columns of the list of studies: what each shows, what can be typed into its filter, and which ones the reader wants.

import { html } from "./preact.mjs";
import { TAGS, bytesOf, dateOf, dateRange, pathOf, text, texts, timeOf } from "./dicom.js";
import { urlOf } from "./server.js";
import { senderName } from "./senders.js";
import { moment, t } from "./words.js";

const KEPT = "columns";
const NARROW_PX = 600;

const plain = (name, tag, wide, more) => ({ name, order: name, of: (row) => text(row, tag), filter: "text", wide, ...more });
const count = (name, tag) => ({ name, order: name, of: (row) => text(row, tag), kind: "count", wide: 0.8 });
const hide = (event) => { event.currentTarget.style.visibility = "hidden"; };
const arrival = (name, of, wide, more) => ({ name, of: (row) => (row.arrival ? of(row.arrival) : ""), isArrival: true, wide, ...more });

/** `filter`: text, date, list or sex. `isArrival`: the server must be asked for it. `isExtra`: only for who chooses it. */
export const COLUMNS = [
  { name: "Thumbnail", of: (row) => html`<img key=${text(row, TAGS.study)} class="small" loading="lazy" alt="" onError=${hide} src=${urlOf(`${pathOf(text(row, TAGS.study))}/thumbnail`)} />`, wide: 0.5, isExtra: true },
  plain("PatientName", TAGS.patientName, 2.05),
  plain("PatientID", TAGS.patientId, 1.55),
  plain("PatientBirthDate", TAGS.birthDate, 1.25, { of: (row) => dateOf(text(row, TAGS.birthDate)), filter: "date" }),
  { name: "PatientSex", order: "PatientSex", of: (row) => text(row, TAGS.sex), filter: "sex", wide: 0.75 },
  plain("StudyDate", TAGS.studyDate, 1.25, { of: (row) => dateOf(text(row, TAGS.studyDate)), filter: "date" }),
  { name: "StudyTime", order: "StudyTime", of: (row) => timeOf(text(row, TAGS.studyTime)), wide: 0.7 },
  plain("ModalitiesInStudy", TAGS.modalities, 1.05, { of: (row) => texts(row, TAGS.modalities), filter: "list" }),
  plain("StudyDescription", TAGS.description, 1.85, { isAnywhere: true }),
  plain("AccessionNumber", TAGS.accession, 1.45),
  plain("ReferringPhysicianName", TAGS.referring, 1.5, { isExtra: true }),
  plain("StudyID", TAGS.studyId, 0.9, { isExtra: true }),
  count("NumberOfStudyRelatedSeries", TAGS.seriesCount),
  count("NumberOfStudyRelatedInstances", TAGS.instanceCount),
  { name: "InstanceAvailability", of: (row) => t(`availability.${text(row, TAGS.availability) || "ONLINE"}`), wide: 0.9, isExtra: true },
  arrival("Bytes", (facts) => bytesOf(facts.bytes), 0.8, { order: "size", kind: "count", isExtra: true }),
  arrival("Senders", (facts) => facts.senders.map(senderName).join(", "), 1.2, { order: "sender", isExtra: true }),
  arrival("Institutions", (facts) => facts.institutions.join(", "), 1.4, { order: "institution", isExtra: true }),
  arrival("StudyState", (facts) => (facts.state ? t(`study.${facts.state}`) : ""), 0.9, { isExtra: true }),
  arrival("LastReceived", (facts) => moment(facts.last_received), 1.3, { order: "received", isExtra: true }),
];

/** Columns that a table of /api/studies.csv does not have. */
const ONLY_HERE = new Set(["Thumbnail", "StudyState", "InstanceAvailability"]);

const ON_PHONE = ["PatientName", "StudyDate", "ModalitiesInStudy", "StudyDescription"];

function keptNames() {
  try {
    return JSON.parse(localStorage.getItem(KEPT) ?? "[]");
  } catch {
    return [];
  }
}

/** The columns that the reader wants, or those that fit. */
export function wantedColumns() {
  const names = keptNames();
  const kept = COLUMNS.filter(({ name }) => Array.isArray(names) && names.includes(name));
  return kept.length ? kept : COLUMNS.filter(({ name, isExtra }) => (innerWidth < NARROW_PX ? ON_PHONE.includes(name) : !isExtra));
}

/** Keeps these names; null: the default. */
export function keepColumns(names) {
  if (names === null) localStorage.removeItem(KEPT);
  else localStorage.setItem(KEPT, JSON.stringify(names));
}

/** Whether what is typed means something; "": yes, else the word that says what is expected. */
export function mistakeIn({ filter }, typed) {
  if (filter === "date" && typed.trim() && !dateRange(typed)) return "wrong.date";
  if (filter === "list" && !/^[\w ,*?]*$/.test(typed)) return "wrong.list";
  return "";
}

/** The filters of /api/studies for what is typed, also into columns that are not shown. A mistake filters nothing. */
export function filtersOf(typed) {
  const query = new URLSearchParams();
  for (const column of COLUMNS) {
    const value = (typed[column.name] ?? "").trim();
    if (!column.filter || !value || mistakeIn(column, value)) continue;
    if (column.filter === "date") query.set(column.name, dateRange(value));
    else if (column.filter === "list") query.set(column.name, value.toUpperCase().split(/[ ,]+/).filter(Boolean).join(","));
    else if (column.filter === "sex") query.set(column.name, value.toUpperCase());
    else query.set(column.name, /[*?]/.test(value) ? value : `${column.isAnywhere ? "*" : ""}${value}*`);
  }
  return query;
}

/** The address of the same studies as a table; `studies`: only these. */
export function tableUrl(columns, filters, order, studies) {
  const names = columns.map(({ name }) => name).filter((name) => !ONLY_HERE.has(name));
  const query = new URLSearchParams(studies ? { StudyInstanceUID: studies.join(",") } : filters);
  query.set("order", order);
  query.set("columns", [...names, "StudyInstanceUID"].join(","));
  return urlOf(`api/studies.csv?${query}`);
}
