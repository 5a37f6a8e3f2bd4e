// Passkeys (WebAuthn): what the browser wants as bytes comes and goes as base64url.

import { post } from "./server.js";
import { logIn } from "./session.js";

const bytesOf = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (character) => character.charCodeAt(0));

function textOf(buffer) {
  const text = String.fromCharCode(...new Uint8Array(buffer));
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Options as the server writes them, with the bytes that the browser wants. */
function decoded(options) {
  const listed = (list) => list?.map((one) => ({ ...one, id: bytesOf(one.id) }));
  return {
    ...options, challenge: bytesOf(options.challenge), allowCredentials: listed(options.allowCredentials), excludeCredentials: listed(options.excludeCredentials),
    user: options.user && { ...options.user, id: bytesOf(options.user.id) },
  };
}

/** A credential of the browser as JSON. */
function encoded({ id, rawId, type, response, authenticatorAttachment }) {
  const names = ["clientDataJSON", "attestationObject", "authenticatorData", "signature", "userHandle"];
  const parts = Object.fromEntries(names.filter((name) => response[name]).map((name) => [name, textOf(response[name])]));
  return { id, rawId: textOf(rawId), type, authenticatorAttachment, clientExtensionResults: {}, response: { ...parts, ...(response.getTransports ? { transports: response.getTransports() } : {}) } };
}

/** Logs in by a passkey of this device or of a phone. */
export async function usePasskey() {
  const { options, ticket } = await post("api/session/passkey/options", {}, true);
  const credential = await navigator.credentials.get({ publicKey: decoded(options) });
  await logIn("api/session/passkey", { ticket, credential: encoded(credential) });
}

/** Makes a passkey for the user of the session. */
export async function makePasskey(name) {
  const { options, ticket } = await post("api/account/passkeys/options");
  const credential = await navigator.credentials.create({ publicKey: decoded(options) });
  await post("api/account/passkeys", { ticket, name, credential: encoded(credential) });
}
