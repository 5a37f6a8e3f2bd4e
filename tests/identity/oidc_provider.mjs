// A provider of identities by npm's oidc-provider, for tests: it says its address on standard output, and begins when it
// is told on standard input where log-ins and log-outs come back to.

import { createServer } from "node:http";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.argv[2]}/`);
const { default: Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));

const API = "https://filmroom.example/api";
let answer = (request, response) => response.writeHead(503).end();
const server = createServer((request, response) => answer(request, response));

function configuration({ callback, home }) {
  return {
    clients: [
      {
        client_id: "filmroom", client_secret: "a secret of the test", redirect_uris: [callback],
        post_logout_redirect_uris: [home], grant_types: ["authorization_code", "client_credentials"],
      },
    ],
    claims: { openid: ["sub"], profile: ["name", "preferred_username", "realm_access"] },
    findAccount: (context, id) => ({
      accountId: id,
      claims: () => ({
        sub: id, preferred_username: id, name: `${id} of the hospital`,
        realm_access: { roles: id === "ray" ? ["offline_access", "pacs-radiologist"] : ["offline_access"] },
      }),
    }),
    features: {
      devInteractions: { enabled: true },
      rpInitiatedLogout: { enabled: true },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({ scope: "api", audience: API, accessTokenFormat: "jwt" }),
      },
    },
    cookies: { keys: ["a key of the test"] },
  };
}

server.listen(0, "127.0.0.1", () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  createInterface({ input: process.stdin }).on("line", (line) => {
    answer = new Provider(issuer, configuration(JSON.parse(line))).callback();
    console.log("ready");
  }).on("close", () => process.exit(0));
  console.log(issuer);
});
