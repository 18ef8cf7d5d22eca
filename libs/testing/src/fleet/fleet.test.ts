/** A fleet against a real server: all is carried out once. What it does wrong on demand: tests/faults/fleet.test.ts. */
import { beforeAll, expect, test } from "@jest/globals";
import { ClusterService, RegistrationTokenService } from "@bowline/contract/clusters";
import { ProductPublish_State as State } from "@bowline/contract/products";
import { atEnd } from "../endings.ts";
import { startServer, type TestServer } from "../server.ts";
import { until } from "../until.ts";
import { type Fleet, startFleet } from "./fleet.ts";

const agents = 20;
const within = { withinMs: 60_000 };
let server: TestServer;
let fleet: Fleet;

beforeAll(async () => {
  server = await startServer({ flags: ["--heartbeat-interval-ms", "500"] });
  const cluster = await server.client(ClusterService).createCluster({
    cluster: { name: "fleet", runtime: "local", policy: { allowPrivateBackends: true, allowBulkEnrolment: true } },
  });
  const { token } = await server
    .client(RegistrationTokenService)
    .createRegistrationToken({ clusterId: cluster.id, maxUses: agents });
  fleet = startFleet({
    ...{ target: { url: server.url }, token, agents, seed: 7, prefix: "sim-" },
    ...{ runMs: [5, 50], failRate: 0.1 },
    sourceAddresses: process.platform === "linux" ? ["127.0.0.2", "127.0.0.3"] : [],
  });
  atEnd(fleet.stop);
  await fleet.enrolled;
  await until(() => fleet.phases.serving === agents, within);
}, 120_000);

test("twenty agents enrol with one token and carry out what is published: LIVE everywhere, one recorded result per attempt", async () => {
  for (const product of ["one", "two"]) {
    const { id } = await server.operator.publish(product, { to: "fleet", limits: { maxRetries: 20 } });
    await until(async () => (await server.operator.publishOf(id)).state === State.LIVE, within);
  }
  // LIVE says that routes are served. A simulated data plane that failed may still wait for its next try.
  await until(() => fleet.ledger.totals().succeeded === agents * 3, within);
  await until(() => fleet.ledger.totals().unanswered === 0, within);
  const totals = fleet.ledger.totals();
  expect(totals).toMatchObject({ commands: agents * 3, succeeded: agents * 3, recorded: totals.attempts });
  expect(totals.failed).toBe(totals.attempts - totals.succeeded);
  expect(fleet.ledger.violations).toEqual([]);
  const rows = await server.database.db.selectFrom("command_states").select("state").execute();
  expect(rows.map(({ state }) => state)).toEqual(Array.from({ length: agents * 3 }, () => "SUCCEEDED"));
  const addresses = await server.database.db.selectFrom("sessions").select("remote_address").distinct().execute();
  if (process.platform === "linux") expect(addresses).toHaveLength(2);
}, 180_000); // of sixty commands one may fail four times in a row, and waits longer each time
