/** An agent replaces its own keys, by an access token and the word of both keys. */
import { expect, test } from "@jest/globals";
import { generateKey, type KeyPair, signKeyChange } from "@bowline/auth";
import { AgentService } from "@bowline/contract/agent";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { reasonOf } from "../platform/in-process.ts";
import { startSlices } from "./enrolment.fixture.ts";

interface Change {
  to?: KeyPair;
  proofBy?: KeyPair;
  approvedBy?: KeyPair;
  claims?: object;
  agentId?: string;
  audience?: string;
  now?: number;
}

async function start() {
  const slices = await startSlices((await testDatabase()).db);
  await slices.cluster("factory-7");
  const key = await generateKey("Ed25519");
  const { agentId } = await slices.enrol(await slices.token("factory-7"), { key, hostname: "press" });
  await slices.session(agentId);
  const sealing = await generateKey("X25519");
  const rotate = async (from: KeyPair, more: Change = {}) => {
    const to = more.to ?? (await generateKey("Ed25519"));
    const change = {
      agentId: more.agentId ?? agentId,
      audience: more.audience ?? "inst_test",
      thumbprint: to.thumbprint,
      sealingThumbprint: sealing.thumbprint,
    };
    const now = more.now ?? Date.now();
    const claims = JSON.stringify({ agentId, sessionId: "session_1", epoch: 1, ...more.claims });
    const { thumbprint } = await slices.api.as(AgentService).rotateKey(
      {
        signingKey: JSON.stringify(to.publicJwk),
        sealingKey: JSON.stringify(sealing.publicJwk),
        proof: await signKeyChange(more.proofBy ?? to, change, now),
        approval: await signKeyChange(more.approvedBy ?? from, change, now),
      },
      { headers: { claims, authorization: "Bearer verified by sessions/" } },
    );
    return thumbprint;
  };
  const current = async () => (await slices.operator.agents.getAgent({ id: agentId })).keyThumbprint;
  return { ...slices, key, agentId, sealing, rotate, current };
}

test("the agent has the new key at once and the session goes on; the audit trail has both thumbprints", async () => {
  const { rotate, key, current, agentId, operator, db, sealing } = await start();
  const to = await generateKey("Ed25519");
  expect(await rotate(key, { to })).toBe(to.thumbprint);
  expect(await current()).toBe(to.thumbprint);
  expect(await db.selectFrom("sessions").select(["epoch", "state"]).execute()).toEqual([
    { epoch: 1, state: "SERVING" },
  ]);
  expect(await db.selectFrom("agents").select("sealing_key").executeTakeFirstOrThrow()).toEqual({
    sealing_key: sealing.publicJwk,
  });
  const { auditEvents } = await operator.audit.listAuditEvents({ actionPrefix: "agent.rotate-key" });
  expect(auditEvents).toMatchObject([
    {
      principalId: agentId,
      before: { keyThumbprint: key.thumbprint },
      after: { keyThumbprint: to.thumbprint },
    },
  ]);
});

test("asking again with the same key changes nothing and is answered alike", async () => {
  const { rotate, key, current, operator } = await start();
  const to = await generateKey("Ed25519");
  await rotate(key, { to });
  expect(await rotate(key, { to })).toBe(to.thumbprint);
  expect(await rotate(to, { to })).toBe(to.thumbprint);
  expect(await current()).toBe(to.thumbprint);
  expect((await operator.audit.listAuditEvents({ actionPrefix: "agent.rotate-key" })).auditEvents).toHaveLength(1);
});

test("an access token without the present key changes nothing", async () => {
  const { rotate, key, current } = await start();
  const thief = await generateKey("Ed25519");
  expect(await reasonOf(rotate(key, { to: thief, approvedBy: thief }))).toBe("KEY_PROOF_INVALID");
  expect(await current()).toBe(key.thumbprint);
});

test("a proof by another key, for another agent or server, or by a wrong clock does not hold", async () => {
  const { rotate, key, current } = await start();
  expect(await reasonOf(rotate(key, { proofBy: key }))).toBe("KEY_PROOF_INVALID");
  expect(await reasonOf(rotate(key, { agentId: "agent_other" }))).toBe("KEY_PROOF_INVALID");
  expect(await reasonOf(rotate(key, { audience: "inst_other" }))).toBe("KEY_PROOF_INVALID");
  expect(await reasonOf(rotate(key, { now: Date.now() + 600_000 }))).toBe("CLOCK_SKEW");
  expect(await current()).toBe(key.thumbprint);
});

test("a session that has ended, or that another one replaced, changes nothing, also of a call that was under way", async () => {
  const { rotate, key, current, db } = await start();
  for (const claims of [{ epoch: 2 }, { sessionId: "session_0" }, { agentId: "agent_none" }]) {
    expect(await reasonOf(rotate(key, { claims, ...(claims.agentId ? { agentId: claims.agentId } : {}) }))).toBe(
      "SESSION_EXPIRED",
    );
  }
  await db.updateTable("sessions").set({ state: "ENDED" }).execute();
  expect(await reasonOf(rotate(key))).toBe("SESSION_EXPIRED");
  await db.updateTable("sessions").set({ state: "SERVING" }).execute();
  await db.updateTable("agents").set({ state: "CONFLICT" }).execute();
  expect(await reasonOf(rotate(key))).toBe("SESSION_EXPIRED");
  expect(await current()).toBe(key.thumbprint);
});

test("a key that an agent has or had is not taken", async () => {
  const { rotate, key, enrol, token } = await start();
  const other = await generateKey("Ed25519");
  await enrol(await token("factory-7"), { key: other });
  expect(await reasonOf(rotate(key, { to: other }))).toBe("AGENT_KEY_IN_USE");
  const next = await generateKey("Ed25519");
  await rotate(key, { to: next });
  expect(await reasonOf(rotate(next, { to: key }))).toBe("AGENT_KEY_IN_USE");
});

test("more than ten changes in an hour are refused with a delay", async () => {
  const { rotate, key, agentId, db } = await start();
  await sql`INSERT INTO replaced_keys (agent_id, thumbprint, signing_key, because)
    SELECT ${agentId}, 'key ' || n, '{}', 'ROTATION' FROM generate_series(1, 10) AS n`.execute(db);
  expect(await reasonOf(rotate(key))).toBe("RATE_LIMITED");
  await sql`UPDATE replaced_keys SET replaced_at = now() - interval '61 minutes'`.execute(db);
  expect(await reasonOf(rotate(key))).toBe("ok");
});
