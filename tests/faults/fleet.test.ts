/** What agents of a simulated fleet do wrong shows at the server as it does with real ones, and harms no other. */
import { expect, test } from "@jest/globals";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { atEnd, startServer, until } from "@bowline/testing";
import { type Misbehaviour, startFleet } from "@bowline/testing/fleet";

const agents = 20;
const within = { withinMs: 60_000 };

test("a slow reader is cut, a half-open connection is noticed, a duplicate is CONFLICT; a skewed clock and a storm come back, and all but the duplicate get LIVE", async () => {
  const server = await startServer({ flags: ["--heartbeat-interval-ms", "500", "--silence-limit-ms", "12000"] });
  const { id: clusterId } = await server.client(ClusterService).createCluster({
    cluster: { name: "fleet", runtime: "local", policy: { allowPrivateBackends: true, allowBulkEnrolment: true } },
  });
  const tokens = server.client(RegistrationTokenService);
  const { token } = await tokens.createRegistrationToken({ clusterId, maxUses: agents });
  const fleet = startFleet({
    ...{ target: { url: server.url }, token, agents, seed: 7, prefix: "sim-", runMs: [5, 50], failRate: 0 },
    misbehave: { "slow-reader": 1, "half-open": 1, "clock-skew": 2, duplicate: 1, storm: 10 },
  });
  atEnd(fleet.stop);
  await fleet.enrolled;
  await until(() => fleet.phases.serving === agents, within);

  const kinds = ["slow-reader", "half-open", "clock-skew", "duplicate", "storm"] as const;
  for (const kind of kinds) fleet.misbehave(kind);
  const of = (kind: Misbehaviour) => fleet.misbehaviours().find((one) => one.kind === kind);
  const back = (kind: Misbehaviour, count: number) => until(() => of(kind)?.back === count, within);
  await back("storm", 10);
  await back("clock-skew", 2);
  expect(of("clock-skew")?.troubles).toEqual({ DROPPED: 2 });
  await until(() => (of("duplicate")?.troubles["AGENT_CONFLICT"] ?? 0) > 0, within);
  await back("half-open", 1);
  expect(Object.keys(of("half-open")?.troubles ?? {}).join()).toMatch(/^(SILENT|NO_PONG)$/);
  await back("slow-reader", 1);
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  expect(metrics).toMatch(/^bowline_sessions_ended_total\{transport="stream",reason="NOT_READING"\} 1$/m);
  expect(metrics).toMatch(/^bowline_sessions_ended_total\{transport="stream",reason="CONFLICT"\} 1$/m);

  const { db } = server.database;
  const conflicts = await db.selectFrom("agents").select("name").where("state", "=", "CONFLICT").execute();
  expect(conflicts).toHaveLength(1);
  const { id } = await server.operator.publish("one", { to: "fleet" });
  await until(async () => (await server.operator.publishOf(id)).liveTargets === agents - 1, within);
  expect((await server.operator.publishOf(id)).state).not.toBe(State.FAILED);
  expect(fleet.ledger.violations).toEqual([]);
});
