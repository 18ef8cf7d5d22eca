import { expect, test } from "@jest/globals";
import { accessTokenLifeMs, issueAccessToken, looksLikeAccessToken, verifyAccessToken } from "./access-tokens.ts";
import { signAssertion } from "./assertions.ts";
import { generateKey } from "./keys.ts";
import { newToken } from "./tokens.ts";

const now = 1_800_000_000_000;
const key = await generateKey("Ed25519");
const claims = {
  agentId: "agent_1",
  sessionId: "session_1",
  epoch: 7,
  installationId: "installation_1",
  incarnation: 1,
};
const options = { installationId: "installation_1", now };
const find = (kid: string) => (kid === "k1" ? key.publicJwk : undefined);
const token = await issueAccessToken({ kid: "k1", privateJwk: key.privateJwk }, claims, { now });

test("an access token tells agent, session, epoch and incarnation", async () => {
  expect(looksLikeAccessToken(token)).toBe(true);
  expect(looksLikeAccessToken(newToken("bwt").text)).toBe(false);
  const verdict = await verifyAccessToken(token, find, options);
  expect(verdict).toEqual({ ok: true, claims, until: now + accessTokenLifeMs + 5_000 });
  for (const [at, ok] of [
    [now + accessTokenLifeMs + 3_000, true],
    [now + accessTokenLifeMs + 5_000, false],
  ] as const)
    expect(await verifyAccessToken(token, find, { ...options, now: at })).toMatchObject({ ok });
});

test("after ten minutes it is TOKEN_EXPIRED", async () => {
  const later = { ...options, now: now + accessTokenLifeMs + 10_000 };
  expect(await verifyAccessToken(token, find, later)).toMatchObject({ ok: false, reason: "TOKEN_EXPIRED" });
});

test("an unknown key, another installation, an agent's assertion and nonsense are UNAUTHENTICATED", async () => {
  const refused = { ok: false, reason: "UNAUTHENTICATED" };
  expect(await verifyAccessToken(token, () => undefined, options)).toMatchObject(refused);
  expect(await verifyAccessToken(token, find, { ...options, installationId: "installation_2" })).toMatchObject(refused);
  const assertion = await signAssertion(key, { agentId: "agent_1", audience: "installation_1", counter: 1, now });
  expect(await verifyAccessToken(assertion, () => key.publicJwk, options)).toMatchObject(refused);
  expect(await verifyAccessToken("a.b.c", find, options)).toMatchObject(refused);
});

test("a key store that fails is not the token's fault", async () => {
  const failing = () => Promise.reject(new Error("no database"));
  await expect(verifyAccessToken(token, failing, options)).rejects.toThrow("no database");
});
