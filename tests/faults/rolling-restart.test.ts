/**
 * Three replicas behind a load balancer are restarted one after the other, while
 * publishes come all the time and 200 agents carry them out: nobody notices.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "@jest/globals";
import {
  enrolScriptedAgent,
  type FleetAgent,
  startBalancer,
  startFleetAgent,
  startReplicas,
  type TestServer,
  until,
} from "@bowline/testing";

const clusters = 20;
const agentsPerCluster = 10;
/** Production: 30 s. The load balancer here looks ten times a second. */
const flags = ["--drain-spread-ms", "9000", "--heartbeat-interval-ms", "5000"];
/** Between a publish that is LIVE and the next one to that cluster: some 100 commands a second in all. */
const pauseMs = 2_000;
const lookEveryMs = 500;
const within = { withinMs: 60_000 };

type Call = (method: "GET" | "POST", path: string, body?: object, key?: string) => Promise<Record<string, unknown>>;

/** A client as one writes it: it repeats what is answered 503, with its key, after what the answer says. */
function createCaller(url: string, token: string): Call {
  return async (method, path, body, key = "") => {
    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json", connection: "close" };
    for (;;) {
      const answer = await fetch(`${url}${path}`, {
        method,
        headers: key === "" ? headers : { ...headers, "idempotency-key": key },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const said = (await answer.json()) as Record<string, unknown>;
      if (answer.ok) return said;
      const retryAfter = Number(answer.headers.get("retry-after"));
      if (answer.status !== 503 || !(retryAfter > 0)) throw new Error(`${path}: ${JSON.stringify(said)}`);
      await sleep(retryAfter * 1_000);
    }
  };
}

/** Waits until a publish is LIVE, without a call more than a person's script would make. */
async function liveSoon(call: Call, id: string): Promise<void> {
  for (let looks = 0; looks < within.withinMs / lookEveryMs; looks += 1) {
    if ((await call("GET", `/v1/provider/product-publishes/${id}`))["state"] === "LIVE") return;
    await sleep(lookEveryMs);
  }
  throw new Error(`${id} is not LIVE`);
}

async function enrolFleet(server: TestServer, url: string): Promise<FleetAgent[]> {
  const fleet: FleetAgent[] = [];
  const names = Array.from({ length: clusters }, (_, at) => `place-${at}`);
  await Promise.all(
    names.map(async (name) => {
      const { id } = await server.operator.cluster(name);
      for (let count = 0; count < agentsPerCluster; count += 1) {
        const agent = await enrolScriptedAgent({ url, token: await server.operator.registrationToken(id) });
        fleet.push(startFleetAgent(agent));
      }
    }),
  );
  return fleet;
}

test("a rolling restart of three replicas under a stream of publishes with 200 agents: no failed command, no attempt spent, no call refused beyond a retried 503", async () => {
  let replicas: TestServer[] = await startReplicas(3, { flags });
  const [first] = replicas as [TestServer];
  const { db } = first.database;
  const balancer = await startBalancer(replicas.map(({ url }) => url));
  const fleet = await enrolFleet(first, balancer.url);
  const serving = async () => {
    const rows = await db.selectFrom("sessions").select("agent_id").where("state", "=", "SERVING").execute();
    return rows.length === fleet.length;
  };
  await until(serving, within);
  await first.operator.product("steady");

  const call = createCaller(balancer.url, first.adminToken);
  let rolling = true;
  let live = 0;
  const publishing = Array.from({ length: clusters }, async (_, at) => {
    for (let round = 1; rolling; round += 1) {
      const order = { product_id: "steady", cluster_id: `place-${at}` };
      const { id } = await call("POST", "/v1/provider/product-publishes", order, `place ${at} round ${round}`);
      await liveSoon(call, String(id));
      live += 1;
      await sleep(pauseMs);
    }
  });
  // A publisher that fails is told at once, not at the end.
  const failed = Promise.all(publishing).then(() => undefined);
  const roll = async (): Promise<void> => {
    for (const [at, replica] of replicas.entries()) {
      const before = live;
      expect((await replica.stop()).code).toBe(0);
      await balancer.looked();
      expect(balancer.ready()).not.toContain(replica.url);
      await until(() => live - before >= clusters / 2, within); // the two others do the work
      replicas = replicas.with(at, await replica.again());
      await until(() => balancer.ready().includes(replica.url), within);
    }
  };
  await Promise.race([roll(), failed]).finally(() => (rolling = false));
  await failed;
  await until(serving, within);

  const commands = await db
    .selectFrom("command_states")
    .select(({ fn }) => ["state", "attempt", "failures", fn.countAll<number>().as("count")])
    .groupBy(["state", "attempt", "failures"])
    .execute();
  const count = commands[0]?.count ?? 0;
  expect(commands).toEqual([{ state: "SUCCEEDED", attempt: 1, failures: 0, count }]);
  expect(count).toBeGreaterThanOrEqual(live * agentsPerCluster);
  const effects = fleet.flatMap((agent) => [...agent.effects.values()]);
  expect([effects.length, Math.max(...effects)]).toEqual([count, 1]);
  expect(fleet.filter((agent) => agent.sessions() < 2)).toEqual([]); // each was on a replica that went
  // What ends a session or keeps one from opening is only what replicas that go say.
  // A fetch that its own goodbye cut off is made again after the next push.
  const troubles = fleet.flatMap((agent) => agent.troubles).filter((trouble) => !trouble.startsWith("fetch: "));
  expect(troubles.filter((trouble) => trouble !== "REPLICA_DRAINING")).toEqual([]);
});
