// OHIF, where it is installed: its address for a study, else that of the plain viewer.

import { useEffect, useState } from "./preact.mjs";
import { hashOf } from "./location.js";
import { get, urlOf } from "./server.js";

/** What OHIF, as it is installed here, cannot show: whole slides. */
const SLIDES = "SM";

let asked = null;

/** {is_installed, …} of the server; asked once, and again after a failure. */
export function viewerState() {
  asked ??= get("api/viewer").catch((error) => {
    asked = null;
    throw error;
  });
  return asked;
}

/** The address at which a study is viewed; `state` may not be known yet. */
export function viewerHref(state, study, modalities = "") {
  if (!state?.is_installed || modalities.includes(SLIDES)) return hashOf(["view", study]);
  return urlOf(`ohif/viewer?StudyInstanceUIDs=${encodeURIComponent(study)}`);
}

/** What the server says of its viewer; null as long as it is not known. */
export function useViewer() {
  const [state, setState] = useState(null);
  useEffect(() => {
    let isWanted = true;
    viewerState().then((value) => isWanted && setState(value), () => {});
    return () => {
      isWanted = false;
    };
  }, []);
  return state;
}

/** Goes to the viewer of a study. */
export async function openViewer(study, modalities) {
  const state = await viewerState().catch(() => null);
  location.assign(viewerHref(state, study, modalities));
}
