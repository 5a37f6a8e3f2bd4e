// Asks who is there, and for the first rows of the list, while the other scripts of the page are still on their way.

/** What the list of studies asks for besides its filters. */
export const FIELDS = [["includefield", "StudyDescription"], ["includefield", "IssuerOfPatientID"]];
/** The order of a list that nobody has ordered. */
export const ORDER = "-received";

/** Rows of a window of the list. */
export const WINDOW_ROWS = 100;

/** Path → the response, which nobody has taken yet. */
const responses = new Map();
let isOver = false;

const ask = (path) => {
  const response = fetch(new URL(path, document.baseURI), { headers: { Accept: "application/json" } });
  responses.set(path, response);
  return response;
};

/** The response to a request that was made here, once; undefined: it was not. */
export function takeResponse(path) {
  const response = responses.get(path);
  responses.delete(path);
  return response;
}

/** What the page has not taken for its first view it does not need any more. */
export function forgetResponses() {
  isOver = true;
  responses.clear();
}

async function askForRows() {
  const { may, share, must_change_password: mustChange } = await (await ask("api/session")).clone().json();
  // Another view, or a list of one's own columns, asks for something else.
  const isList = ["", "#/", "#/studies"].includes(location.hash) && localStorage.getItem("columns") === null;
  if (isOver || !isList || share || mustChange || !may?.includes("query")) return;
  await ask(`api/studies?${new URLSearchParams([["order", ORDER], ...FIELDS, ["position", 0], ["limit", WINDOW_ROWS]])}`);
}

// Whoever takes a response that failed asks again, and says why it failed.
askForRows().catch(() => undefined);
