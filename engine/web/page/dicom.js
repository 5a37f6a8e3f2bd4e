// Values of DICOM JSON (PS3.18 F) as text for people.

export const TAGS = {
  study: "0020000D", series: "0020000E", instance: "00080018", sopClass: "00080016",
  patientName: "00100010", patientId: "00100020", issuer: "00100021", birthDate: "00100030", sex: "00100040",
  studyDate: "00080020", studyTime: "00080030", accession: "00080050", studyId: "00200010",
  description: "00081030", availability: "00080056", modalities: "00080061", referring: "00080090",
  seriesCount: "00201206", instanceCount: "00201208",
  modality: "00080060", seriesDescription: "0008103E", seriesNumber: "00200011", seriesInstances: "00201209",
  seriesDate: "00080021", seriesTime: "00080031", bodyPart: "00180015",
  instanceNumber: "00200013", frames: "00280008", rows: "00280010", columns: "00280011",
  center: "00281050", width: "00281051", position: "00200032", orientation: "00200037",
  spacing: "00280030", slope: "00281053", frameTime: "00181063", photometric: "00280004",
};

/** The values of an attribute. */
export const values = (dataset, tag) => dataset?.[tag]?.Value ?? [];

/** The first value as text, "" when there is none. */
export function text(dataset, tag) {
  const [value] = values(dataset, tag);
  if (value === undefined || value === null) return "";
  return typeof value === "object" ? nameOf(value) : String(value);
}

/** All values as text. */
export const texts = (dataset, tag) => values(dataset, tag).map((value) => String(value ?? "")).join(", ");

/** The first value as a number; NaN when there is none. */
export const number = (dataset, tag) => Number(values(dataset, tag)[0] ?? NaN);

/** A person's name as people write it: "Doe, Jane". Other scripts follow in brackets. */
export function nameOf(name) {
  const groups = [name.Alphabetic, name.Ideographic, name.Phonetic].filter(Boolean).map(groupOf);
  const [first, ...others] = groups;
  return others.length ? `${first} (${others.join(", ")})` : first ?? "";
}

function groupOf(group) {
  const [family = "", given = "", middle = "", prefix = "", suffix = ""] = group.split("^").map((part) => part.trim());
  const own = [given, middle].filter(Boolean).join(" ");
  const name = [family, own].filter(Boolean).join(", ");
  return [prefix, name, suffix].filter(Boolean).join(" ");
}

const DATE = /^(\d{4})[.]?(\d{2})[.]?(\d{2})$/;
const TIME = /^(\d{2}):?(\d{2}).*/;

/** A DA value in ISO 8601, also one of ACR-NEMA ("1994.11.05"); what is none is shown as it is. */
export const dateOf = (da) => (DATE.test(da) ? da.replace(DATE, "$1-$2-$3") : da);

/** A TM value to the minute, also one of ACR-NEMA ("11:20:00"). */
export const timeOf = (tm) => (TIME.test(tm) ? tm.replace(TIME, "$1:$2") : tm);

/**
 * What is typed into a date filter, as a DICOM range: "2026", "2026-01", "2026-01-05", "2026-01..2026-03", "..2025", "today", "7d",
 * "month". null: no date yet.
 */
export function dateRange(typed) {
  const word = typed.trim().toLowerCase();
  const [, days] = /^(\d{1,4})d$/.exec(word) ?? [];
  if (days > 0) return `${daysAgo(days - 1)}-${daysAgo(0)}`;
  const [from, to] = word.includes("..") ? word.split("..", 2).map((part) => part.trim()) : [word, null];
  const first = from ? bounds(from) : ["", ""];
  const last = to === null ? first : to ? bounds(to) : ["", ""];
  if (!first || !last || (!first[0] && !last[1]) || (first[0] && last[1] && first[0] > last[1])) return null;
  return first[0] === last[1] ? first[0] : `${first[0]}-${last[1]}`;
}

function bounds(typed) {
  if (typed === "today") return [daysAgo(0), daysAgo(0)];
  if (typed === "month") return bounds(daysAgo(0).slice(0, 6));
  const [, year, month, day] = /^(\d{4})(?:-?(\d{2})(?:-?(\d{2}))?)?$/.exec(typed) ?? [];
  if (!year || (month && (month < "01" || month > "12"))) return null;
  const lastDay = month ? new Date(Number(year), Number(month), 0).getDate() : 31;
  if (day) return day < "01" || Number(day) > lastDay ? null : [year + month + day, year + month + day];
  return month ? [`${year}${month}01`, `${year}${month}${lastDay}`] : [`${year}0101`, `${year}1231`];
}

/** Date of today, some days before, as DA. */
export function daysAgo(days) {
  const date = new Date(Date.now() - days * 86400000);
  return `${date.getFullYear()}${String(date.getMonth() + 1).padStart(2, "0")}${String(date.getDate()).padStart(2, "0")}`;
}

/** Bytes with three digits and a unit. */
export function bytesOf(count) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit && count < 100 ? count.toPrecision(3) : Math.round(count)}\u00a0${units[unit]}`; // a number and its unit stay on one line
}

/** Path of a study, series or instance below the DICOMweb root. */
export function pathOf(study, series, instance) {
  const parts = ["dicom-web/studies", encodeURIComponent(study)];
  if (series) parts.push("series", encodeURIComponent(series));
  if (instance) parts.push("instances", encodeURIComponent(instance));
  return parts.join("/");
}
