/** ReconcileDeployment, called by many at once; on a real PostgreSQL. */
import { create } from "@bufbuild/protobuf";
import { beforeAll, expect, test } from "@jest/globals";
import { type DeploymentStatus, ReconcileDeploymentRequestSchema } from "@bowline/contract/deployments";
import { newId } from "@bowline/kernel";
import { testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { createReconcile, lockDeployments } from "../deployments/index.ts";
import { type Principal, systemPrincipal } from "../platform/context.ts";
import { type Db, transact } from "../platform/transactions.ts";
import { epoch, startEngine } from "./engine.fixture.ts";
import { converge, type Here, renewing } from "./index.ts";

type Claims = Parameters<Here["claim"]>[1];

let db: Db;

beforeAll(async () => {
  ({ db } = await testDatabase());
});

async function start(count: number) {
  const engine = await startEngine(db);
  const wishes = Array.from({ length: count }, () => engine.wish());
  const made = await transact(db, (work) => converge(engine.ports, work, wishes));
  const reconcile = createReconcile({ db, events: engine.ports.events, ...renewing(engine.ports) });
  return {
    ids: made.map(({ deploymentId }) => deploymentId),
    call: (id: string, { requestId = "", principal = systemPrincipal as Principal } = {}): Promise<DeploymentStatus> =>
      reconcile(
        { principal, request: { requestId: "r", remoteAddress: "" } },
        create(ReconcileDeploymentRequestSchema, { id, requestId }),
      ),
    commandsOf: (id: string) =>
      db
        .selectFrom("commands as c")
        .innerJoin("command_states as s", "s.command_id", "c.id")
        .select(["c.id", "c.generation", "s.state", "c.created_by"])
        .where("c.deployment_id", "=", id)
        .orderBy("c.generation")
        .execute(),
  };
}

const reasonOf = (called: Promise<unknown>) =>
  called.then(
    () => "done",
    (error: unknown) => (error as { reason?: string }).reason,
  );

test("calls of one moment share transactions, and each gets the answer about its own deployment", async () => {
  const { ids, call, commandsOf } = await start(40);
  const transactions = async () => {
    const rows = await Promise.all(
      ids.map((id) =>
        db
          .selectFrom("deployments")
          .select(sql<string>`updated_at::text`.as("at"))
          .where("id", "=", id)
          .executeTakeFirstOrThrow(),
      ),
    );
    return new Set(rows.map((row) => row.at)).size; // of the transaction's time
  };
  const answers = await Promise.all(ids.map((id) => call(id)));
  expect(
    answers.map(({ id, generation, updatedAt, spec }) => ({
      id,
      generation,
      updated: updatedAt !== undefined,
      of: spec?.id,
    })),
  ).toEqual(ids.map((id) => ({ id, generation: 2, updated: true, of: id })));
  expect(await transactions()).toBeLessThan(5);
  for (const id of ids) {
    expect(await commandsOf(id)).toMatchObject([
      { generation: 1, state: "SUPERSEDED" },
      { generation: 2, state: "READY", created_by: "system" },
    ]);
  }
  const audited = await db
    .selectFrom("audit_events")
    .select("resource_id")
    .where("action", "=", "deployment.reconcile")
    .where("resource_id", "in", ids)
    .execute();
  expect(audited.map((row) => row.resource_id).toSorted()).toEqual(ids.toSorted());
});

test("what is wrong with one call of a set is that call's alone", async () => {
  const { ids, call } = await start(3);
  const [absent = "", private_ = "", fine = ""] = ids;
  await db.updateTable("deployments").set({ desired: "ABSENT", is_absent: true }).where("id", "=", absent).execute();
  const customer: Principal = { ...systemPrincipal, id: "sa_1", role: "viewer", organisationId: newId("organisation") };
  expect(
    await Promise.all([
      reasonOf(call(fine)),
      reasonOf(call(newId("deployment"))),
      reasonOf(call(absent)),
      reasonOf(call(private_, { principal: customer })),
    ]),
  ).toEqual(["done", "NOT_FOUND", "DEPLOYMENT_ABSENT", "NOT_FOUND"]);
});

test("a deployment that is called for several times in one moment gets a generation for each", async () => {
  const { ids, call, commandsOf } = await start(1);
  const [id = ""] = ids;
  const answers = await Promise.all(Array.from({ length: 5 }, () => call(id)));
  expect(Math.max(...answers.map(({ generation }) => generation))).toBe(6);
  expect((await commandsOf(id)).map(({ state }) => state)).toEqual([...Array<string>(5).fill("SUPERSEDED"), "READY"]);
});

test("an idempotency key that many send in one moment is done once", async () => {
  const { ids, call, commandsOf } = await start(2);
  const [id = "", other = ""] = ids;
  const requestId = newId("req");
  const answers = await Promise.all(Array.from({ length: 6 }, () => call(id, { requestId })));
  expect(answers.map(({ generation }) => generation)).toEqual(Array(6).fill(2));
  expect(await call(id, { requestId })).toMatchObject({ id, generation: 2 });
  expect(await commandsOf(id)).toHaveLength(2);
  expect(await reasonOf(call(other, { requestId }))).toBe("IDEMPOTENCY_CONFLICT");
  expect(await commandsOf(other)).toHaveLength(1);
});

test("a deployment that another transaction holds keeps only its own call waiting", async () => {
  const { ids, call, commandsOf } = await start(4);
  const [held = "", ...others] = ids;
  let waiting: Promise<DeploymentStatus> | undefined;
  await transact(db, async (work) => {
    await lockDeployments(work.tx, [held]);
    waiting = call(held);
    const answers = await Promise.all(others.map((id) => call(id)));
    expect(answers.map(({ generation }) => generation)).toEqual([2, 2, 2]);
    await until(async () => (await commandsOf(held)).length === 1); // still as before
  });
  expect(await waiting).toMatchObject({ id: held, generation: 2 });
});

test("a slice that waits for a lock keeps nobody else's call waiting", async () => {
  const engine = await startEngine(db);
  const [slow, quick] = await transact(db, (work) =>
    converge(engine.ports, work, [{ ...engine.wish(), kind: "slow" }, engine.wish()]),
  );
  const slicesRow = sql`SELECT pg_advisory_xact_lock(4711)`;
  engine.ports.owners.set("slow", {
    changed: async () => undefined,
    renewed: async (work) => void (await slicesRow.execute(work.tx)),
  });
  const reconcile = createReconcile({ db, events: engine.ports.events, ...renewing(engine.ports) });
  const call = (id = "") =>
    reconcile(
      { principal: systemPrincipal, request: { requestId: "r", remoteAddress: "" } },
      create(ReconcileDeploymentRequestSchema, { id }),
    );
  let waiting: Promise<DeploymentStatus> | undefined;
  await transact(db, async (work) => {
    await slicesRow.execute(work.tx);
    waiting = call(slow?.deploymentId);
    expect(await call(quick?.deploymentId)).toMatchObject({ generation: 2 });
  });
  expect(await waiting).toMatchObject({ generation: 2 });
});

test("a slice that waits for a lock when its command is claimed with the enqueue is no defect of that slice", async () => {
  const engine = await startEngine(db);
  const made = await engine.enqueue();
  const slicesRow = sql`SELECT pg_advisory_xact_lock(4712)`;
  const transactions = new Set<string>();
  engine.ports.owners.set("test", {
    changed: async (work, commands) => {
      if (!commands.some(({ state }) => state === "ASSIGNED")) return;
      const { rows } = await sql<{ id: string }>`SELECT pg_current_xact_id()::text AS id`.execute(work.tx);
      for (const { id } of rows) transactions.add(id);
      await slicesRow.execute(work.tx);
    },
  });
  const claimant = { agentId: engine.agentId, epoch, window: 16 };
  const ports = {
    ...engine.ports,
    here: { claim: (_: unknown, claims: Claims) => claims([claimant]), push: () => undefined },
  };
  const reconcile = createReconcile({ db, events: ports.events, ...renewing(ports) });
  let waiting: Promise<DeploymentStatus> | undefined;
  await transact(db, async (work) => {
    await slicesRow.execute(work.tx);
    waiting = reconcile(
      { principal: systemPrincipal, request: { requestId: "r", remoteAddress: "" } },
      create(ReconcileDeploymentRequestSchema, { id: made.deploymentId }),
    );
    // The set's, which gives up by itself, and after it the call's own.
    await until(() => transactions.size === 2);
  });
  expect(await waiting).toMatchObject({ generation: 2 });
  const row = db
    .selectFrom("command_states")
    .select(["state", "domain_error"])
    .where("deployment_id", "=", made.deploymentId)
    .orderBy("sequence", "desc");
  expect(await row.executeTakeFirst()).toEqual({ state: "ASSIGNED", domain_error: "" });
});

test("a newer wish that commits meanwhile is what is converged anew, not the one before it", async () => {
  const engine = await startEngine(db);
  const made = await engine.enqueue();
  const reconcile = createReconcile({ db, events: engine.ports.events, ...renewing(engine.ports) });
  let called: Promise<DeploymentStatus> | undefined;
  await transact(db, async (work) => {
    await lockDeployments(work.tx, [made.deploymentId]);
    called = reconcile(
      { principal: systemPrincipal, request: { requestId: "r", remoteAddress: "" } },
      create(ReconcileDeploymentRequestSchema, { id: made.deploymentId }),
    );
    await until(async () => {
      const { rows } = await sql`
        SELECT 1 FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%"deployments"%'`.execute(db);
      return rows.length > 0;
    });
    const wish = engine.wish(made.deploymentId);
    await converge(engine.ports, work, [{ ...wish, build: () => ({ ...wish.build(), labels: { at: "newer" } }) }]);
  });
  expect(await called).toMatchObject({ generation: 3, spec: { labels: { at: "newer" } } });
});
