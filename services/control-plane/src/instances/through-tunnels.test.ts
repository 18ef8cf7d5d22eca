/**
 * Tunnels and what is asked through them, over a real database: the agent is
 * scripted, and calls what a real one would call.
 */
import { randomBytes } from "node:crypto";
import { beforeEach, expect, test } from "@jest/globals";
import { encryptionKey } from "@bowline/auth";
import { type TunnelRequestSchema, type TunnelResponse, TunnelService } from "@bowline/contract/agent";
import { InstanceService } from "@bowline/contract/instances";
import { type Clock, newId, systemClock } from "@bowline/kernel";
import { refusalOf } from "@bowline/session";
import { testDatabase, until } from "@bowline/testing";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { sql } from "kysely";
import { type InstancePorts, type Place, registerInstances } from "./index.ts";
import { createEvents } from "../platform/events.ts";
import { shutOut } from "../identity/index.ts";
import { inProcess } from "../platform/in-process.ts";
import { createTunnels, relayCredential, type Tunnels } from "../tunnels/index.ts";

const { db } = await testDatabase();
const log = { error: () => undefined, warn: () => undefined, info: () => undefined };
const encryption = encryptionKey(randomBytes(32));
const replicaId = newId("replica");
/** Every pause is a moment. */
const hasty: Clock = {
  ...systemClock,
  sleep: (ms, signal) => systemClock.sleep(Math.min(ms, 20), signal),
};

type Up = MessageInitShape<typeof TunnelRequestSchema>;
type Script = (down: AsyncIterable<TunnelResponse>) => AsyncGenerator<Up>;

let agentId: string;
let organisationId: string;
let places: Place[];
/** What the agent does when it is asked for a tunnel; undefined: nothing. */
let script: Script | undefined;
let homeUrl: string;
let asked: string[];

beforeEach(async () => {
  const organisation = newId("org");
  organisationId = organisation;
  await db
    .insertInto("organisations")
    .values({ id: organisation, name: organisation.replaceAll("_", "-") })
    .execute();
  agentId = await enrol();
  places = [placeAt(agentId, "press-1")];
  script = undefined;
  homeUrl = "http://127.0.0.1:9";
  asked = [];
});

function placeAt(agent: string, name: string, more: Partial<Place> = {}): Place {
  const deploymentId = `deployment_${agent}`;
  return {
    agentId: agent,
    agent: name,
    deploymentId,
    organisationId,
    workload: "web",
    service: "web",
    index: 0,
    phase: "RUNNING",
    ...more,
  };
}

async function enrol(session: "SERVING" | "ENDED" = "SERVING"): Promise<string> {
  const id = newId("agent");
  const cluster = newId("cluster");
  await db
    .insertInto("clusters")
    .values({ id: cluster, name: cluster.replaceAll("_", "-"), runtime: "local" } as never)
    .execute();
  await db
    .insertInto("agents")
    .values({
      ...{ id, cluster_id: cluster, name: id.replaceAll("_", "-"), runtime: "local", runtime_identity: id },
      ...{ signing_key: "{}", sealing_key: "{}", signing_thumbprint: id },
    } as never)
    .execute();
  await db
    .insertInto("sessions")
    .values({ agent_id: id, id: newId("session"), epoch: 1, replica_id: replicaId, state: session } as never)
    .execute();
  await db
    .insertInto("replicas")
    .values({ id: replicaId, server_version: "1", lease_until: new Date(Date.now() + 3_600_000) })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  return id;
}

/** A replica with the API of instances in front of it, and agents that dial it. */
function start(clock: Clock = systemClock) {
  const events = createEvents(db, log);
  const principal = {
    ...{ kind: "service-account" as const, id: newId("sa"), name: "ann", role: "operator" as const },
    ...{ organisationId: "", organisation: "" },
  };
  const tunnels: Tunnels = createTunnels({
    ...{ db, encryption, clock, log, words: { send: () => undefined }, replicaId },
    homeUrl: () => homeUrl,
    trust: () => undefined,
    ask(to, { tunnelId }) {
      asked.push(tunnelId);
      if (script !== undefined && asked.length === 1) void dial(tunnelId, script).catch(() => undefined);
      return to === agentId;
    },
    called: async () => ({ agentId, sessionId: await sessionOf(agentId), epoch: 1 }),
    shutOut: (ids) => shutOut(db, ids),
  });
  const ports: InstancePorts = {
    ...{ db, clock, events: () => events, tunnels, check: () => undefined },
    instancesOfStack: async () => places,
    instancesOfDeployment: async () => places,
  };
  const inner = inProcess(
    (router) => {
      tunnels.register(router);
      registerInstances(router, ports);
    },
    { authenticate: async () => principal, log },
  );
  async function dial(tunnelId: string, says: Script, bearer = "token"): Promise<TunnelResponse[]> {
    let give: (down: AsyncIterable<TunnelResponse>) => void = () => undefined;
    const came = new Promise<AsyncIterable<TunnelResponse>>((resolve) => (give = resolve));
    async function* up(): AsyncGenerator<Up> {
      yield { frame: { case: "opened", value: { tunnelId } } };
      yield* says(await came);
    }
    const heard: TunnelResponse[] = [];
    const answers = inner.as(TunnelService, bearer).tunnel(up());
    const rest: TunnelResponse[] = [];
    let wake = (): void => undefined;
    let over = false;
    give({
      async *[Symbol.asyncIterator]() {
        for (;;) {
          const next = rest.shift();
          if (next !== undefined) yield next;
          else if (over) return;
          else await new Promise<void>((resolve) => (wake = resolve));
        }
      },
    });
    try {
      for await (const answer of answers) {
        heard.push(answer);
        rest.push(answer);
        wake();
      }
    } finally {
      over = true;
      wake();
    }
    return heard;
  }
  const api = inner.as(InstanceService, "ann");
  async function exec(more: { agent?: string } = {}): Promise<number | string> {
    const value = { stack: "shop", service: "web", command: ["true"], ...more };
    async function* said() {
      yield { message: { case: "start" as const, value } };
      await new Promise(() => undefined);
    }
    let code: number | undefined;
    try {
      for await (const { message } of api.exec(said())) if (message.case === "exit") ({ code } = message.value);
      return code ?? "no exit";
    } catch (error) {
      return refusalOf(error).reason;
    }
  }
  return { tunnels, api, exec, dial, principal };
}

async function sessionOf(agent: string): Promise<string> {
  return (await db.selectFrom("sessions").select("id").where("agent_id", "=", agent).executeTakeFirstOrThrow()).id;
}

const answering = (...frames: Up["frame"][]): Script =>
  async function* (down) {
    for await (const { frame } of down) if (frame.case === "exec" || frame.case === "logs") break;
    for (const frame of frames) yield { frame } as Up;
  };
const silent: Script = async function* () {
  await new Promise(() => undefined);
  yield {};
};

test("an exec ends with what the agent says; whose instance it is finds it in their audit, also an operator's", async () => {
  script = answering(
    { case: "output", value: { source: 1, data: Buffer.from("hello") } },
    { case: "exit", value: { code: 3 } },
  );
  expect(await start().exec()).toBe(3);
  expect(
    await db
      .selectFrom("audit_events")
      .select(["action", "organisation_id"])
      .where("resource_id", "=", places[0]?.deploymentId ?? "")
      .execute(),
  ).toEqual([{ action: "instance.exec", organisation_id: organisationId }]);
});

test("what an agent refuses has its reason: INSTANCE_UNKNOWN, INSTANCE_NOT_RUNNING, EXEC_UNSUPPORTED, DENIED_BY_HOST", async () => {
  for (const [said, reason] of [
    ["INSTANCE_UNKNOWN", "INSTANCE_UNKNOWN"],
    ["INSTANCE_NOT_RUNNING", "INSTANCE_NOT_RUNNING"],
    ["UNSUPPORTED", "EXEC_UNSUPPORTED"],
    ["DENIED_BY_HOST", "DENIED_BY_HOST"],
    ["INTERNAL", "TUNNEL_LOST"],
  ]) {
    asked = [];
    script = answering({ case: "error", value: { reason: said, message: "so it is" } });
    expect(await start().exec()).toBe(reason);
  }
});

test("which instance is meant is asked for where it is not clear: INSTANCE_AMBIGUOUS, INSTANCE_NOT_RUNNING", async () => {
  const other = placeAt(newId("agent"), "press-2");
  places = [...places, other];
  expect(await start().exec()).toBe("INSTANCE_AMBIGUOUS");
  places = [{ ...other, phase: "BACKING_OFF" }];
  expect(await start().exec()).toBe("INSTANCE_NOT_RUNNING");
  expect(await start().exec({ agent: "press-9" })).toBe("INSTANCE_UNKNOWN");
});

test("an agent that is away is AGENT_OFFLINE; one that does not come is TUNNEL_TIMEOUT, and is asked again meanwhile", async () => {
  const away = await enrol("ENDED");
  places = [placeAt(away, "press-2")];
  expect(await start().exec()).toBe("AGENT_OFFLINE");
  places = [placeAt(agentId, "press-1")];
  asked = [];
  // Only pauses take time, so that a machine that is slow in between makes none of them the last.
  let passed = 0;
  const pauses: Clock = {
    ...hasty,
    monotonicMs: () => passed,
    sleep(ms, signal) {
      passed += ms;
      return hasty.sleep(ms, signal);
    },
  };
  expect(await start(pauses).exec()).toBe("TUNNEL_TIMEOUT");
  expect(asked.length).toBeGreaterThan(1);
  expect(new Set(asked).size).toBe(1);
  const rows = db.selectFrom("tunnels").select("id").where("agent_id", "=", agentId);
  await until(async () => (await rows.execute()).length === 0); // it is not waited for
});

test("an agent that is in the middle of its Sync is asked when that is done", async () => {
  const sessions = db.updateTable("sessions").where("agent_id", "=", agentId);
  await sessions.set({ state: "SYNCING" }).execute();
  let looked = 0;
  const counting: Clock = {
    ...systemClock,
    sleep(ms, signal) {
      if (ms === 250) looked += 1;
      return hasty.sleep(ms, signal);
    },
  };
  script = answering({ case: "exit", value: { code: 0 } });
  const ended = start(counting).exec();
  await until(() => looked > 3);
  expect(asked).toEqual([]);
  await sessions.set({ state: "SERVING" }).execute();
  expect(await ended).toBe(0);
});

test("an agent that says nothing any more is TUNNEL_LOST", async () => {
  script = silent;
  expect(await start({ ...systemClock, sleep: (ms, signal) => systemClock.sleep(ms / 100, signal) }).exec()).toBe(
    "TUNNEL_LOST",
  );
});

test("a program through which nothing goes for half an hour is TUNNEL_IDLE", async () => {
  let heard = false;
  script = async function* (down) {
    for await (const { frame } of down) {
      heard ||= frame.case === "exec";
      yield { frame: { case: "keepAlive", value: {} } };
    }
  };
  const idle: Clock = {
    now: () => systemClock.now(),
    monotonicMs: () => systemClock.monotonicMs() + (heard ? 31 * 60_000 : 0),
    sleep: (ms, signal) => systemClock.sleep(ms === 10_000 && heard ? 20 : ms === 10_000 ? 200 : ms, signal),
  };
  expect(await start(idle).exec()).toBe("TUNNEL_IDLE");
});

test("no more tunnels than may be are open to an agent: TUNNEL_LIMIT; what a lost replica left does not count", async () => {
  const row = { agent_id: agentId, home_url: "", purpose: "logs", principal_id: "somebody" };
  const many = (replica: string) =>
    Array.from({ length: 32 }, () => ({ ...row, id: newId("tunnel"), replica_id: replica }));
  await db.insertInto("tunnels").values(many("replica_lost")).execute();
  script = answering({ case: "exit", value: { code: 0 } });
  expect(await start().exec()).toBe(0);
  await db.insertInto("tunnels").values(many(replicaId)).execute();
  expect(await start().exec()).toBe("TUNNEL_LIMIT");
});

test("an agent opens only what it was asked for: TUNNEL_UNKNOWN, TUNNEL_UNREACHABLE, UNAUTHENTICATED, SESSION_EXPIRED", async () => {
  const { dial } = start();
  const reason = async (id: string, bearer?: string): Promise<string> =>
    dial(id, silent, bearer).then(
      () => "none",
      (error: unknown) => refusalOf(error).reason,
    );
  expect(await reason(newId("tunnel"))).toBe("TUNNEL_UNKNOWN");
  const row = { purpose: "logs", principal_id: "somebody", home_url: "", replica_id: "replica_other" };
  const foreign = newId("tunnel");
  await db
    .insertInto("tunnels")
    .values({ ...row, id: foreign, agent_id: await enrol() })
    .execute();
  expect(await reason(foreign)).toBe("TUNNEL_UNKNOWN");
  const unreachable = newId("tunnel");
  await db
    .insertInto("tunnels")
    .values({ ...row, id: unreachable, agent_id: agentId })
    .execute();
  expect(await reason(unreachable)).toBe("TUNNEL_UNREACHABLE");
  // A relay's credential holds for its tunnel only, and what it brings is not relayed again.
  const credential = relayCredential(encryption, unreachable, agentId);
  expect(await reason(unreachable, credential)).toBe("TUNNEL_UNKNOWN");
  expect(await reason(foreign, credential)).toBe("UNAUTHENTICATED");
  await db.updateTable("sessions").set({ state: "ENDED" }).where("agent_id", "=", agentId).execute();
  expect(await reason(unreachable)).toBe("SESSION_EXPIRED");
});

test("of several agents the one that is away is an entry, and the others' lines come", async () => {
  const away = await enrol("ENDED");
  places = [...places, placeAt(away, "press-2")];
  script = answering({ case: "output", value: { instance: 0, data: Buffer.from("one\ntwo") } });
  const told: string[] = [];
  for await (const { entries } of start().api.streamLogs({ stack: "shop" }))
    told.push(...entries.map(({ instance, line, reason }) => `${instance?.agent} ${reason || line}`));
  expect(told.toSorted()).toEqual(["press-1 one", "press-1 two", "press-2 AGENT_OFFLINE"]);
});

/** The agent lets programs run for ever; `heard` once one does. */
function runsForEver(): () => boolean {
  let heard = false;
  script = async function* (down) {
    for await (const { frame } of down) {
      heard ||= frame.case === "exec";
      yield { frame: { case: "keepAlive", value: {} } };
    }
  };
  return () => heard;
}

/** A replica that looks after its tunnels all the time, while `work` does. */
async function lookingAfter(work: (started: ReturnType<typeof start>) => Promise<void>): Promise<void> {
  const started = start({
    ...systemClock,
    sleep: (ms, signal) => systemClock.sleep(ms === 5_000 ? 50 : ms, signal),
  });
  const stop = new AbortController();
  const running = started.tunnels.run(stop.signal);
  try {
    await work(started);
  } finally {
    stop.abort();
    await running;
  }
}

test("an agent that is revoked loses its tunnels", async () => {
  const heard = runsForEver();
  await lookingAfter(async ({ exec }) => {
    const ended = exec();
    await until(heard);
    await db.updateTable("agents").set({ state: "REVOKED" }).where("id", "=", agentId).execute();
    expect(await ended).toBe("TUNNEL_LOST");
  });
});

test.each(["revoked_at", "expires_at"] as const)(
  "whose token is not valid any more loses what they have open (%s)",
  async (column) => {
    const heard = runsForEver();
    await lookingAfter(async ({ exec, principal: { id, name, role } }) => {
      const account = { id, name: id.replaceAll("_", "-"), role, organisation_id: organisationId, created_by: name };
      await db
        .insertInto("service_accounts")
        .values({ ...account, secret_hash: randomBytes(32) })
        .execute();
      const ended = exec();
      await until(heard);
      await db
        .updateTable("service_accounts")
        .set({ [column]: new Date() })
        .where("id", "=", id)
        .execute();
      expect(await ended).toBe("UNAUTHENTICATED");
    });
  },
);

test("what could not be forgotten at its end is forgotten later, and counts for nobody's limit then", async () => {
  const rows = db.selectFrom("tunnels").select("id").where("agent_id", "=", agentId);
  await sql`CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not now''; END'`.execute(
    db,
  );
  await sql`CREATE TRIGGER refuse BEFORE DELETE ON tunnels FOR EACH ROW EXECUTE FUNCTION refuse()`.execute(db);
  script = answering({ case: "exit", value: { code: 0 } });
  await lookingAfter(async ({ exec }) => {
    expect(await exec()).toBe(0);
    expect(await rows.execute()).toHaveLength(1);
    await sql`DROP TRIGGER refuse ON tunnels`.execute(db);
    await until(async () => (await rows.execute()).length === 0);
  });
});
