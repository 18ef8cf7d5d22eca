/** A registration token that gives an existing agent new keys: a dead host's replacement. Above the slices, since two of them are asked: agents and sessions. */
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { generateKey, signAssertion } from "@bowline/auth";
import { ConnectRequestSchema } from "@bowline/contract/agent";
import { Agent_State } from "@bowline/contract/agents";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { isProblem } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { converge } from "./commands/index.ts";
import { reasonOf } from "./platform/in-process.ts";
import { transact } from "./platform/transactions.ts";
import { verifyDialler } from "./sessions/index.ts";
import { createOpenings } from "./sessions/openings.ts";
import { startSlices } from "./agents/enrolment.fixture.ts";

async function start() {
  const slices = await startSlices((await testDatabase()).db);
  const { engine, db, operator } = slices;
  await slices.cluster("factory-7");
  const key = await generateKey("Ed25519");
  const enrolled = await slices.enrol(await slices.token("factory-7"), { key, hostname: "press" });
  const { agentId, clusterId, installationId } = enrolled;
  const rekeyToken = async (more: object = {}) =>
    (await operator.tokens.createRegistrationToken({ rekeyAgentId: "press", ...more })).token;
  const wish = async (desired: Deployment_Desired, deploymentId?: string) => {
    const owner = { organisationId: "org_x", kind: "test", ownerId: "test_1", createdBy: "test" };
    const [enqueued] = await transact(db, (work) =>
      converge(engine, work, [{ deploymentId, agentId, clusterId, ...owner, build: () => ({ desired }) }]),
    );
    if (enqueued === undefined) throw new Error("nothing was enqueued");
    return enqueued;
  };
  const reason = (answered: Promise<unknown>) =>
    answered.then(
      () => "ok",
      (error: unknown) => (isProblem(error) ? error.reason : error),
    );
  /** Asks what a token would do, as `agent doctor` would. */
  const examine = (text: string) => reason(slices.agents.examineToken(text, { requestId: "", remoteAddress: "" }));
  /** What an assertion by this key proves. */
  const assertion = async (by: typeof key) => {
    const signed = await signAssertion(by, { agentId, audience: installationId, counter: 1, now: Date.now() });
    return verifyDialler(db, installationId, signed);
  };
  /** Dials with a key, as a stream would. */
  const dial = (by: typeof key) => reason(assertion(by));
  const agent = () => operator.agents.getAgent({ id: agentId });
  return { ...slices, key, agentId, clusterId, rekeyToken, wish, examine, assertion, dial, agent };
}

const { RUNNING, ABSENT } = Deployment_Desired;

test("the agent keeps its id and name, and has the new keys, host and runtime", async () => {
  const { enrol, rekeyToken, agent, agentId, key, dial, enrolled } = await start();
  const fresh = await generateKey("Ed25519");
  const answer = await enrol(await rekeyToken(), {
    key: fresh,
    hostname: "press-new",
    name: "other",
    labels: { a: "b" },
  });
  expect(answer).toMatchObject({ agentId, name: "press", cluster: "factory-7" });
  expect(await agent()).toMatchObject({
    name: "press",
    hostname: "press-new",
    labels: { a: "b" },
    state: Agent_State.ENROLLED,
    keyThumbprint: fresh.thumbprint,
  });
  expect(await dial(fresh)).toBe("ok");
  expect(await dial(key)).toBe("AGENT_KEY_REPLACED");
  expect(await dial(await generateKey("Ed25519"))).toBe("ASSERTION_INVALID");
  expect(enrolled).toHaveLength(1); // it is no new agent
});

test("who had proved itself with the key before, and waited with its greeting, opens no session afterwards", async () => {
  const { enrol, rekeyToken, key, engine, db, assertion } = await start();
  const fresh = await generateKey("Ed25519");
  const greeting = create(ConnectRequestSchema, { protocolMin: 1, protocolMax: 1, runtimeIdentity: "engine-1" });
  const facts = { replicaId: "r", remoteAddress: "", clientCertificate: "", transport: "STREAM", greeting } as const;
  const open = async (by: typeof key) => {
    const asserted = await assertion(by);
    return () => createOpenings(() => engine).open({ ...facts, ...asserted });
  };
  const late = await open(key);
  await enrol(await rekeyToken(), { key: fresh });
  await expect(late()).rejects.toMatchObject({ reason: "AGENT_KEY_REPLACED" });
  expect(await db.selectFrom("sessions").selectAll().execute()).toEqual([]);
  expect(await (await open(fresh))()).toMatchObject({ epoch: 1 });
});

test("its session ends, the epoch grows and the counter starts anew", async () => {
  const { enrol, rekeyToken, session, agentId, agent, db, closed } = await start();
  await session(agentId);
  await db.updateTable("sessions").set({ assertion_counter: 1_000, process_id: "process_1" }).execute();
  await enrol(await rekeyToken());
  expect(await db.selectFrom("sessions").selectAll().executeTakeFirstOrThrow()).toMatchObject({
    epoch: 2,
    state: "ENDED",
    end_reason: "REKEYED",
    assertion_counter: 0,
    process_id: "",
  });
  expect(await agent()).toMatchObject({ offlineReason: "REKEYED" });
  expect(closed).toEqual([agentId]);
});

test("a conflict ends with it", async () => {
  const { enrol, rekeyToken, agent, db } = await start();
  await db
    .updateTable("agents")
    .set({ state: "CONFLICT", conflict: "OTHER_RUNTIME", conflict_runtime_identity: "engine-9" })
    .execute();
  await enrol(await rekeyToken());
  expect(await agent()).toMatchObject({ state: Agent_State.ENROLLED, conflict: "", conflictRuntimeIdentity: "" });
});

test("a decision that is awaited is needed no more, what was answered before stays, and the audit trail says so", async () => {
  const { enrol, rekeyToken, agent, agentId, db, operator } = await start();
  await db.updateTable("agents").set({ state: "AWAITING_DECISION", decision: "DEPLOYMENTS_DIFFER" }).execute();
  const dispute = { agent_id: agentId, why: "UNKNOWN_DEPLOYMENT", agent_generation: 9, agent_digest: "", runs: true };
  await db
    .insertInto("agent_disputes")
    .values([
      { ...dispute, deployment_id: "open" },
      { ...dispute, deployment_id: "answered", settled_at: new Date() },
    ])
    .execute();
  await enrol(await rekeyToken());
  expect(await agent()).toMatchObject({ state: Agent_State.ENROLLED, decision: "", disputes: [] });
  expect(await db.selectFrom("agent_disputes").select("deployment_id").execute()).toEqual([
    { deployment_id: "answered" },
  ]);
  const { auditEvents } = await operator.audit.listAuditEvents({});
  expect(auditEvents[0]).toMatchObject({
    action: "agent.rekey",
    before: { state: "AWAITING_DECISION" },
    after: { state: "ENROLLED" },
  });
});

test("every deployment is converged again, in flight or done, and what was observed is forgotten; a removal just goes on", async () => {
  const { enrol, rekeyToken, session, agentId, wish, db } = await start();
  await session(agentId);
  const [done, running, removed] = [await wish(RUNNING), await wish(RUNNING), await wish(RUNNING)];
  await db
    .updateTable("command_states")
    .set({ state: "SUCCEEDED", attempt: 1 })
    .where("command_id", "in", [done.commandId, removed.commandId])
    .execute();
  await db
    .updateTable("command_states")
    .set({ state: "RUNNING", attempt: 1, bound_epoch: 1, ever_received: true })
    .where("command_id", "=", running.commandId)
    .execute();
  const removal = await wish(ABSENT, removed.deploymentId);
  await db.updateTable("deployments").set({ observed_generation: 1, held_reason: "FAILED" }).execute();
  await db
    .insertInto("instances")
    .values({
      deployment_id: done.deploymentId,
      workload: "w",
      index: 0,
      generation: 1,
      phase: "RUNNING",
      health: "HEALTHY",
      restarts: 0,
      exit_code: null,
      image: "",
      reason: "",
      started_at: null,
      observation: 900,
    })
    .execute();

  await enrol(await rekeyToken());
  const rows = await db
    .selectFrom("commands as c")
    .innerJoin("command_states as s", "s.command_id", "c.id")
    .select(["c.deployment_id", "c.generation", "s.state", "s.bound_epoch"])
    .orderBy("s.sequence")
    .execute();
  const of = (id: string) =>
    rows.filter((row) => row.deployment_id === id).map((row) => `${row.generation} ${row.state} ${row.bound_epoch}`);
  expect(of(done.deploymentId)).toEqual(["1 SUCCEEDED null", "2 READY null"]);
  expect(of(running.deploymentId)).toEqual(["1 RUNNING null", "2 BLOCKED null"]);
  expect(of(removed.deploymentId)).toEqual(["1 SUCCEEDED null", `${removal.generation} READY null`]);
  expect(await db.selectFrom("instances").selectAll().execute()).toEqual([]);
  const { observed_generation, held_reason } = await db
    .selectFrom("deployments")
    .selectAll()
    .where("id", "=", done.deploymentId)
    .executeTakeFirstOrThrow();
  expect({ observed_generation, held_reason }).toEqual({ observed_generation: 0, held_reason: "" });
});

test("a lost reply is repeated to the same key; another key finds the token used; neither converges again", async () => {
  const { enrol, rekeyToken, agentId, wish, db } = await start();
  await wish(RUNNING);
  const text = await rekeyToken();
  const key = await generateKey("Ed25519");
  await enrol(text, { key });
  expect((await enrol(text, { key })).agentId).toBe(agentId);
  expect(await reasonOf(enrol(text))).toBe("REGISTRATION_TOKEN_USED");
  const { generation } = await db.selectFrom("deployments").select("generation").executeTakeFirstOrThrow();
  expect(generation).toBe(2);
});

test("a key that a later token replaced is not given back by repeating its enrolment, nor by a new token", async () => {
  const { enrol, rekeyToken, agent } = await start();
  const [first, second] = [await generateKey("Ed25519"), await generateKey("Ed25519")];
  const text = await rekeyToken();
  await enrol(text, { key: first });
  await enrol(await rekeyToken(), { key: second });
  expect(await reasonOf(enrol(text, { key: first }))).toBe("AGENT_KEY_REPLACED");
  expect(await reasonOf(enrol(await rekeyToken(), { key: first }))).toBe("AGENT_KEY_REPLACED");
  expect(await reasonOf(enrol(await rekeyToken(), { key: second }))).toBe("AGENT_KEY_IN_USE");
  expect((await agent()).keyThumbprint).toBe(second.thumbprint);
});

test("for an agent that is revoked or retired no token is issued, and one that was issued before does nothing and is said not to", async () => {
  const { enrol, rekeyToken, examine, operator, agentId } = await start();
  const [one, two] = [await rekeyToken(), await rekeyToken()];
  expect(await examine(one)).toBe("ok");
  await operator.agents.revokeAgent({ id: agentId });
  expect(await examine(one)).toBe("AGENT_REVOKED");
  expect(await reasonOf(rekeyToken({ rekeyAgentId: agentId }))).toBe("AGENT_REVOKED");
  expect(await reasonOf(enrol(one))).toBe("AGENT_REVOKED");
  await operator.agents.retireAgent({ id: agentId });
  expect(await reasonOf(rekeyToken({ rekeyAgentId: agentId }))).toBe("AGENT_RETIRED");
  expect(await reasonOf(enrol(one))).toBe("AGENT_RETIRED");
  expect(await examine(one)).toBe("AGENT_RETIRED");
  await operator.agents.deleteAgent({ id: agentId });
  expect(await reasonOf(enrol(two))).toBe("AGENT_REVOKED");
  expect(await examine(two)).toBe("AGENT_REVOKED");
  expect((await operator.agents.listAgents({})).agents).toEqual([]);
});

test("the token's cluster is the agent's, it has one use, and says which agent it is for", async () => {
  const { operator, rekeyToken, cluster, agentId, clusterId } = await start();
  await cluster("other", { policy: { allowBulkEnrolment: true } });
  expect(await reasonOf(rekeyToken({ clusterId: "other" }))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(rekeyToken({ maxUses: 2 }))).toBe("INVALID_ARGUMENT");
  expect(await reasonOf(rekeyToken({ rekeyAgentId: "nobody" }))).toBe("NOT_FOUND");
  expect(await reasonOf(operator.tokens.createRegistrationToken({}))).toBe("INVALID_ARGUMENT");
  await rekeyToken({ clusterId: "factory-7" });
  const { registrationTokens } = await operator.tokens.listRegistrationTokens({ clusterId });
  expect(registrationTokens[0]).toMatchObject({ rekeyAgentId: agentId, clusterId, maxUses: 1 });
  expect(registrationTokens.at(-1)).toMatchObject({ rekeyAgentId: "" });
});

test("the audit trail has the thumbprints before and after, and refusals", async () => {
  const { enrol, rekeyToken, operator, key, agentId } = await start();
  const fresh = await generateKey("Ed25519");
  const text = await rekeyToken();
  await enrol(text, { key: fresh, hostname: "press-new" });
  await reasonOf(enrol(text));
  const { auditEvents } = await operator.audit.listAuditEvents({});
  expect(auditEvents[1]).toMatchObject({
    action: "agent.rekey",
    resourceId: agentId,
    outcome: "ok",
    before: { keyThumbprint: key.thumbprint, hostname: "press" },
    after: { keyThumbprint: fresh.thumbprint, hostname: "press-new" },
  });
  expect(auditEvents[0]).toMatchObject({ action: "agent.enrol", outcome: "REGISTRATION_TOKEN_USED" });
});
