import { expect, test } from "@jest/globals";
import { pullRefusal } from "./images.ts";

/** What engines say, word for word. */
const said = {
  missing: [
    "manifest for r.example:5000/app:9 not found: manifest unknown: manifest unknown",
    "repository r.example:5000/app not found: name unknown: repository name not known to registry",
  ],
  denied: [
    'Head "https://r.example:5000/v2/app/manifests/1": no basic auth credentials',
    "unauthorized: authentication required",
    "pull access denied for r.example:5000/app, repository does not exist or may require 'docker login': denied: requested access to the resource is denied",
  ],
  away: [
    'Get "http://r.example:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused',
    'Get "https://r.example:5000/v2/": dial tcp: lookup r.example on 10.0.0.2:53: no such host',
    'Get "https://r.example:5000/v2/": net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)',
    'Get "https://r.example:5000/v2/": x509: certificate signed by unknown authority',
    'Get "https://r.example:5000/v2/": http: server gave HTTP response to HTTPS client',
  ],
};

const about = (message: string, username?: string) => {
  const { reason, message: text, worthRetry } = pullRefusal("r.example:5000/app", "r.example:5000", username, message);
  return { reason, text, worthRetry };
};

test("an image that is not there, one that is denied and a registry that does not answer are told apart", () => {
  const refused = (what: string, worthRetry: boolean) => ({
    ...{ reason: "IMAGE_UNAVAILABLE", worthRetry },
    text: expect.stringContaining(what),
  });
  for (const message of said.missing)
    expect(about(message)).toEqual(refused("the registry r.example:5000 has no such image", false));
  for (const message of said.denied)
    expect(about(message)).toEqual(refused("the registry r.example:5000 denied it", false));
  for (const message of said.away)
    expect(about(message)).toEqual(refused("the registry r.example:5000 is not reachable from this host", true));
  expect(about("no such image: R: invalid reference format: repository name must be lowercase")).toEqual(
    refused("this is no reference of an image", false),
  );
  expect(about("unexpected end")).toEqual(refused("the pull failed: unexpected end", true));
});

test("a denial says whether a credential was used and whose, and what to do", () => {
  expect(about("unauthorized: no").text).toContain(
    "without a credential, since there is none for it (bowline registry create r.example:5000)",
  );
  expect(about("unauthorized: no", "ci").text).toContain(
    "to ci, whose credential was used (bowline registry update r.example:5000)",
  );
});
