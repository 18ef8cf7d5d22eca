import { SignJWT, importJWK } from "jose";
import { expect, test } from "@jest/globals";
import {
  readAssertionSubject,
  signAssertion,
  signEnrolmentProof,
  verifyAssertion,
  verifyEnrolmentProof,
} from "./assertions.ts";
import { generateKey } from "./keys.ts";

const now = 1_800_000_000_000;
const key = await generateKey("Ed25519");
const claims = { agentId: "agent_1", audience: "installation_1", counter: 41, now };
const options = { audience: "installation_1", now };

test("an assertion tells the agent and its counter", async () => {
  const jwt = await signAssertion(key, claims);
  expect(readAssertionSubject(jwt)).toBe("agent_1");
  expect(await verifyAssertion(jwt, key.publicJwk, options)).toEqual({ ok: true, agentId: "agent_1", counter: 41 });
});

test("another key, another audience, a changed byte and nonsense are ASSERTION_INVALID", async () => {
  const jwt = await signAssertion(key, claims);
  const other = await generateKey("Ed25519");
  const refused = { ok: false, reason: "ASSERTION_INVALID" };
  expect(await verifyAssertion(jwt, other.publicJwk, options)).toMatchObject(refused);
  expect(await verifyAssertion(jwt, key.publicJwk, { ...options, audience: "installation_2" })).toMatchObject(refused);
  expect(await verifyAssertion(jwt.replace(/\.\w/, ".A"), key.publicJwk, options)).toMatchObject(refused);
  expect(await verifyAssertion("x".repeat(10_000), key.publicJwk, options)).toMatchObject(refused);
  expect(readAssertionSubject("nonsense")).toBeUndefined();
});

test("an assertion that the agent signed for longer than a minute, or without a counter, is refused", async () => {
  const sign = async (payload: Record<string, unknown>, seconds: number) =>
    new SignJWT(payload)
      .setProtectedHeader({ alg: "EdDSA", typ: "bowline-assertion+jwt" })
      .setSubject("agent_1")
      .setAudience("installation_1")
      .setIssuedAt(now / 1000)
      .setExpirationTime(now / 1000 + seconds)
      .sign(await importJWK(key.privateJwk, "EdDSA"));
  expect(await verifyAssertion(await sign({ counter: 1 }, 3600), key.publicJwk, options)).toMatchObject({ ok: false });
  expect(await verifyAssertion(await sign({ counter: 1.5 }, 60), key.publicJwk, options)).toMatchObject({ ok: false });
  expect(await verifyAssertion(await sign({}, 60), key.publicJwk, options)).toMatchObject({ ok: false });
  expect(await verifyAssertion(await sign({ counter: 1 }, 60), key.publicJwk, options)).toMatchObject({ ok: true });
});

test("an assertion from another time is CLOCK_SKEW and tells how far the clocks are apart", async () => {
  for (const offset of [-600_000, 600_000]) {
    const jwt = await signAssertion(key, { ...claims, now: now + offset });
    const verdict = await verifyAssertion(jwt, key.publicJwk, options);
    expect(verdict).toMatchObject({ ok: false, reason: "CLOCK_SKEW", message: expect.stringContaining("600 s") });
  }
});

test("an enrolment proof tells what it was signed for", async () => {
  const jws = await signEnrolmentProof(key, { tokenId: "t", audience: "http://a", runtimeIdentity: "machine", now });
  expect(await verifyEnrolmentProof(jws, key.publicJwk, { now })).toEqual({
    ok: true,
    issuedAtMs: now,
    proof: { tokenId: "t", audience: "http://a", runtimeIdentity: "machine", thumbprint: key.thumbprint },
  });
});

test("a proof by another key, an old one, and an assertion in its place are refused", async () => {
  const jws = await signEnrolmentProof(key, { tokenId: "t", audience: "a", runtimeIdentity: "m", now });
  const other = await generateKey("Ed25519");
  const refused = { ok: false, reason: "ENROLMENT_PROOF_INVALID" };
  expect(await verifyEnrolmentProof(jws, other.publicJwk, { now })).toMatchObject(refused);
  expect(await verifyEnrolmentProof(await signAssertion(key, claims), key.publicJwk, { now })).toMatchObject(refused);
  expect(await verifyEnrolmentProof(jws, key.publicJwk, { now: now + 3_600_000 })).toMatchObject({
    reason: "CLOCK_SKEW",
  });
});
