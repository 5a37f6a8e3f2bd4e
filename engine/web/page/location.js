// What the page shows is behind "#" in its address: "#/studies?PatientName=doe". Links, back and bookmarks work.

/** A part of a path; one that is not encoded well is taken as it is. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** {path: ["studies"], query: URLSearchParams} */
export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

/** The address of a place. */
export function hashOf(path, query) {
  const text = query ? String(query instanceof URLSearchParams ? query : new URLSearchParams(query)) : "";
  return `#/${path.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

/** Goes to a place; `replace` leaves no step in the history. */
export function go(path, query, replace = false) {
  const hash = hashOf(path, query);
  if (hash === location.hash) return;
  if (replace) {
    history.replaceState(null, "", hash);
    window.dispatchEvent(new HashChangeEvent("hashchange"));
  } else {
    location.hash = hash;
  }
}

let list = "#/studies";

/** The address of the list of studies as it was left, with its filters. */
export const listHash = () => list;

function remember() {
  if ((here().path[0] ?? "studies") === "studies") list = location.hash || "#/studies";
}
addEventListener("hashchange", remember);
remember();
