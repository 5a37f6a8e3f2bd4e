// Names of those who sent something.

import { t } from "./words.js";

/** "CT1 (DICOM, 10.0.0.7:104)". */
export const senderOf = ({ name, way, address }) =>
  way === "import" ? t("way.import") : way === "http" ? `${address} (${t("way.http")})` : `${name} (${["DICOM", address].filter(Boolean).join(", ")})`;

/** A sender as lists have it: "CT1", "http:10.0.0.7", "". */
export const senderName = (sender) => sender || t("way.import");
