import { expect, test } from "@jest/globals";
import { generateKey } from "@bowline/auth";
import { AgentService } from "@bowline/contract/agent";
import { Agent_State } from "@bowline/contract/agents";
import { Cluster_State, RegistrationToken_State } from "@bowline/contract/clusters";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { reasonOf } from "../platform/in-process.ts";
import { publicUrl, type Slices, startSlices } from "./enrolment.fixture.ts";

async function start() {
  const slices = await startSlices((await testDatabase()).db);
  await slices.cluster("factory-7");
  return slices;
}

/** Outcomes of enrolments in the audit trail, oldest first. */
async function audited(slices: Slices): Promise<string[]> {
  const { auditEvents } = await slices.operator.audit.listAuditEvents({ actionPrefix: "agent.enrol" });
  return auditEvents.map(({ outcome }) => outcome).toReversed();
}

const agesAgo = (db: Slices["db"], minutes: number) =>
  db
    .updateTable("registration_token_uses")
    .set({ used_at: sql<Date>`now() - make_interval(mins => ${minutes})` })
    .execute();

test("a token enrols one agent, named after its host, and is USED", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  const answer = await slices.enrol(text, { hostname: "Press 1.Example.COM", labels: { line: "2" } });
  expect(answer).toMatchObject({ name: "press-1.example.com", cluster: "factory-7" });
  expect(answer.installationId).toMatch(/^inst_/);
  expect(await slices.operator.agents.getAgent({ id: answer.agentId })).toMatchObject({
    state: Agent_State.ENROLLED,
    offlineReason: "NEVER_CONNECTED",
    labels: { line: "2" },
    clusterId: answer.clusterId,
  });
  const token = await slices.operator.tokens.getRegistrationToken({ id: `rt_${text.split("_")[1]}` });
  expect(token).toMatchObject({ state: RegistrationToken_State.USED, uses: 1, agentIds: [answer.agentId] });
  expect(slices.enrolled.map(({ id }) => id)).toEqual([answer.agentId]);
  expect(await slices.operator.clusters.getCluster({ id: "factory-7" })).toMatchObject({
    state: Cluster_State.OFFLINE,
    agentsTotal: 1,
    agentsOnline: 0,
  });
});

test("of two agents that use one token at once, one enrols and the other is refused and audited", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  const reasons = await Promise.all([1, 2, 3].map(() => reasonOf(slices.enrol(text))));
  expect(reasons.toSorted()).toEqual(["REGISTRATION_TOKEN_USED", "REGISTRATION_TOKEN_USED", "ok"]);
  expect((await slices.operator.agents.listAgents({})).agents).toHaveLength(1);
  expect((await audited(slices)).toSorted()).toEqual(["REGISTRATION_TOKEN_USED", "REGISTRATION_TOKEN_USED", "ok"]);
});

test("a lost reply is repeated to the same key, though the token is spent, expired or revoked meanwhile", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  const key = await generateKey("Ed25519");
  const first = await slices.enrol(text, { key });
  await slices.db
    .updateTable("registration_tokens")
    .set({ expires_at: sql<Date>`now()` })
    .execute();
  await slices.operator.tokens.revokeRegistrationToken({ id: `rt_${text.split("_")[1]}` });
  const [second, third] = await Promise.all([slices.enrol(text, { key }), slices.enrol(text, { key })]);
  expect([second.agentId, third.agentId]).toEqual([first.agentId, first.agentId]);
  expect((await slices.operator.agents.listAgents({})).agents).toHaveLength(1);
  expect(slices.enrolled).toHaveLength(1);
});

test("the same key at once twice gets one agent", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  const key = await generateKey("Ed25519");
  const answers = await Promise.all([slices.enrol(text, { key }), slices.enrol(text, { key })]);
  expect(new Set(answers.map(({ agentId }) => agentId)).size).toBe(1);
});

test("after ten minutes, and after a revocation, the same key is refused too", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  const key = await generateKey("Ed25519");
  const { agentId } = await slices.enrol(text, { key });
  await agesAgo(slices.db, 11);
  expect(await reasonOf(slices.enrol(text, { key }))).toBe("REGISTRATION_TOKEN_USED");
  await agesAgo(slices.db, 0);
  await slices.operator.agents.revokeAgent({ id: agentId });
  expect(await reasonOf(slices.enrol(text, { key }))).toBe("AGENT_REVOKED");
});

test("a key that a live agent has enrols no second agent with a fresh token", async () => {
  const slices = await start();
  const key = await generateKey("Ed25519");
  const { agentId } = await slices.enrol(await slices.token("factory-7"), { key });
  const fresh = await slices.token("factory-7");
  expect(await reasonOf(slices.enrol(fresh, { key }))).toBe("AGENT_KEY_IN_USE");
  await slices.operator.agents.revokeAgent({ id: agentId });
  expect((await slices.enrol(fresh, { key })).agentId).not.toBe(agentId);
});

test("what is wrong with a token is said with a reason of its own", async () => {
  const slices = await start();
  const { enrol, token, db, operator } = slices;
  for (const text of ["x", "bwr_", `bwt_${"0".repeat(26)}_${"A".repeat(43)}`]) {
    expect(await reasonOf(enrol(text, { tokenId: "x" }))).toBe("REGISTRATION_TOKEN_MALFORMED");
  }
  const expired = await token("factory-7");
  await db
    .updateTable("registration_tokens")
    .set({ expires_at: sql<Date>`now()` })
    .execute();
  const revoked = await token("factory-7");
  await operator.tokens.revokeRegistrationToken({ id: `rt_${revoked.split("_")[1]}` });
  const good = await token("factory-7");
  const wrongSecret = `${good.slice(0, -3)}${good.endsWith("AAA") ? "BBB" : "AAA"}`;
  expect(await reasonOf(enrol(expired))).toBe("REGISTRATION_TOKEN_EXPIRED");
  expect(await reasonOf(enrol(revoked))).toBe("REGISTRATION_TOKEN_REVOKED");
  expect(await reasonOf(enrol(wrongSecret))).toBe("REGISTRATION_TOKEN_UNKNOWN");
  expect(await reasonOf(enrol(`bwr_${"0".repeat(26)}_${"A".repeat(43)}`))).toBe("REGISTRATION_TOKEN_UNKNOWN");
  expect(await reasonOf(enrol(` ${good}\n`, { tokenId: good.split("_")[1] ?? "" }))).toBe("ok");
  expect(await audited(slices)).toEqual(["REGISTRATION_TOKEN_EXPIRED", "REGISTRATION_TOKEN_REVOKED", "ok"]);
});

test("a proof by another key, for another token, runtime or server does not hold, and spends nothing", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  const wrong = [
    { proofBy: await generateKey("Ed25519") },
    { tokenId: "0".repeat(26) },
    { runtimeIdentity: "engine-2" },
    { audience: "https://evil.example.com" },
    { audience: "http://bowline.example.com" },
    { audience: `${publicUrl}/path` },
    { audience: "nonsense" },
  ];
  for (const options of wrong) expect(await reasonOf(slices.enrol(text, options))).toBe("ENROLMENT_PROOF_INVALID");
  expect(await reasonOf(slices.enrol(text))).toBe("ok");
  expect(await audited(slices)).toEqual([...wrong.map(() => "ENROLMENT_PROOF_INVALID"), "ok"]);
});

test("the host that the agent dialled is taken as the proof's audience too", async () => {
  const slices = await start();
  expect(await reasonOf(slices.enrol(await slices.token("factory-7"), { audience: "https://in-memory" }))).toBe("ok");
});

test("a clock that is more than five minutes off is CLOCK_SKEW, in both directions", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  for (const minutes of [-6, 6, 600]) {
    expect(await reasonOf(slices.enrol(text, { now: Date.now() + minutes * 60_000 }))).toBe("CLOCK_SKEW");
  }
  expect(await reasonOf(slices.enrol(text, { now: Date.now() - 4 * 60_000 }))).toBe("ok");
});

test("an agent of another kind is CLUSTER_MISMATCH, and the token can still be used", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  expect(await reasonOf(slices.enrol(text, { runtime: "kubernetes" }))).toBe("CLUSTER_MISMATCH");
  expect(await reasonOf(slices.enrol(text))).toBe("ok");
});

test("a cluster that is being deleted takes no agent", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  await slices.db.updateTable("clusters").set({ deleting: true }).execute();
  expect(await reasonOf(slices.enrol(text))).toBe("CLUSTER_DELETING");
});

test("keys that are no keys are refused by field", async () => {
  const slices = await start();
  const token = await slices.token("factory-7");
  const key = await generateKey("Ed25519");
  const enroll = (signingKey: string, sealingKey: string) =>
    slices.api
      .as(AgentService)
      .enroll({ token, signingKey, sealingKey, proof: "x", runtime: "docker", runtimeIdentity: "e" });
  const jwk = JSON.stringify(key.publicJwk);
  expect(await reasonOf(enroll(jwk, jwk))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(enroll("{}", "[]"))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(enroll(JSON.stringify(key.privateJwk), jwk))).toBe("INVALID_ARGUMENT");
});

test("names are made unique by a number, also at their longest and all at once", async () => {
  const slices = await start();
  await slices.cluster("bulk", { policy: { allowBulkEnrolment: true } });
  const text = await slices.token("bulk", { maxUses: 12 });
  const name = "n".repeat(63);
  const answers = await Promise.all(Array.from({ length: 12 }, () => slices.enrol(text, { name })));
  const names = answers.map((answer) => answer.name).toSorted();
  expect(names).toEqual(
    [
      name,
      ...Array.from({ length: 8 }, (_, at) => `${"n".repeat(61)}-${at + 2}`),
      ...[10, 11, 12].map((at) => `${"n".repeat(60)}-${at}`),
    ].toSorted(),
  );
  expect(await reasonOf(slices.enrol(text))).toBe("REGISTRATION_TOKEN_USED");
});

test("of those that come at once as many enrol as the token has uses; the others hear that it is spent", async () => {
  const slices = await start();
  await slices.cluster("bulk", { policy: { allowBulkEnrolment: true } });
  const text = await slices.token("bulk", { maxUses: 3 });
  const outcomes = await Promise.all(Array.from({ length: 8 }, () => reasonOf(slices.enrol(text))));
  expect(outcomes.filter((reason) => reason === "REGISTRATION_TOKEN_USED")).toHaveLength(5);
  const agents = await slices.db.selectFrom("agents").select("name").execute();
  expect(agents).toHaveLength(3);
});

test("an agent's secret halves and the token's secret are stored nowhere", async () => {
  const slices = await start();
  const text = await slices.token("factory-7");
  await slices.enrol(text);
  await reasonOf(slices.enrol(text));
  const secret = text.split("_").slice(2).join("_");
  for (const table of ["agents", "registration_tokens", "registration_token_uses", "audit_events"] as const) {
    const { rows } = await sql<{ text: string }>`SELECT t::text AS text FROM ${sql.table(table)} t`.execute(slices.db);
    expect(rows.some((row) => row.text.includes(secret) || row.text.includes('"d"'))).toBe(false);
  }
});
