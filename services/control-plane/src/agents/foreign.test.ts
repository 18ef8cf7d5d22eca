/** Others' containers over a real database; the agent is scripted, and dials as a real one does. */
import { randomBytes } from "node:crypto";
import { beforeAll, beforeEach, expect, test } from "@jest/globals";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { encryptionKey } from "@bowline/auth";
import { type TunnelRequestSchema, TunnelService } from "@bowline/contract/agent";
import { AgentsService, ForeignContainer_State as State } from "@bowline/contract/agents";
import { Role } from "@bowline/contract/options";
import { systemClock } from "@bowline/kernel";
import { testDatabase, until } from "@bowline/testing";
import { inProcess, reasonOf } from "../platform/in-process.ts";
import { createTunnels } from "../tunnels/index.ts";
import { type Slices, startSlices } from "./enrolment.fixture.ts";

type Frame = MessageInitShape<typeof TunnelRequestSchema>["frame"];

let slices: Slices;
let agentId: string;
let named = 0;
/** What the agent answers. */
let answer: Frame[];
/** Tunnels that it was asked for. */
let asked: Set<string>;

const containers = (...names: string[]): Frame => ({
  case: "containers",
  value: { containers: names.map((name) => ({ id: `id-${name}`, name, state: State.RUNNING })) },
});

beforeAll(async () => {
  const { db } = await testDatabase();
  const log = { error: () => {}, warn: () => {} };
  const tunnels = createTunnels({
    ...{ db, encryption: encryptionKey(randomBytes(32)), clock: systemClock, log, words: { send: () => {} } },
    ...{ replicaId: "replica_1", homeUrl: () => "", trust: () => undefined },
    ask(_, { tunnelId }) {
      if (!asked.has(tunnelId)) void dial(tunnelId).catch(() => undefined);
      asked.add(tunnelId);
      return true;
    },
    called: async () => ({ agentId, sessionId: "session_1", epoch: 1 }),
    shutOut: async () => new Set(),
  });
  const agent = { kind: "service-account", id: "sa", name: "agent", role: "operator" } as const;
  const wire = inProcess((router) => tunnels.register(router), {
    authenticate: async () => ({ ...agent, organisationId: "", organisation: "" }),
  });
  async function dial(tunnelId: string): Promise<void> {
    let hear = (): void => {};
    const wanted = new Promise<void>((resolve) => (hear = resolve));
    async function* up(): AsyncGenerator<MessageInitShape<typeof TunnelRequestSchema>> {
      yield { frame: { case: "opened", value: { tunnelId } } };
      await wanted;
      for (const frame of answer) yield { frame } as MessageInitShape<typeof TunnelRequestSchema>;
    }
    for await (const { frame } of wire.as(TunnelService, "token").tunnel(up()))
      if (frame.case === "foreignContainers") hear();
  }
  slices = await startSlices(db, { openTunnel: (wish, signal) => tunnels.open(wish, signal) });
});

beforeEach(async () => {
  named += 1;
  const name = `hosts-${named}`;
  await slices.cluster(name, { policy: { reportForeignContainers: true } });
  ({ agentId } = await slices.enrol(await slices.token(name), { hostname: `press-${named}` }));
  await capable("images", "foreign-containers");
  answer = [containers()];
  asked = new Set();
});

async function capable(...capabilities: string[]): Promise<void> {
  const { db } = slices;
  await db
    .updateTable("agents")
    .set({ capabilities: JSON.stringify(capabilities) })
    .where("id", "=", agentId)
    .execute();
  const known = await db.selectFrom("sessions").select("id").where("agent_id", "=", agentId).executeTakeFirst();
  if (known === undefined) await slices.session(agentId);
}

const list = (more: object = {}) => slices.operator.agents.listForeignContainers({ agent: agentId, ...more });

test("others' containers are told by name, from all that the agent says, and who asked is audited", async () => {
  answer = [containers("web", "db"), { case: "keepAlive", value: {} }, containers("cache")];
  const told = await list({ returnTotalSize: true });
  expect(told.containers.map(({ name }) => name)).toEqual(["cache", "db", "web"]);
  expect(told).toMatchObject({ nextPageToken: "", totalSize: 3, truncated: false });
  const { auditEvents } = await slices.operator.audit.listAuditEvents({ resourceId: agentId });
  expect(auditEvents.map(({ action }) => action)).toContain("agent.list_foreign_containers");
  const open = () => slices.db.selectFrom("tunnels").select("id").where("agent_id", "=", agentId).execute();
  await until(async () => (await open()).length === 0, { what: "the tunnel's row is gone" });
});

test("pages go by name, also where containers come and go between them, and filters narrow them", async () => {
  answer = [containers("b", "d", "a", "c")];
  const first = await list({ pageSize: 2 });
  expect(first.containers.map(({ name }) => name)).toEqual(["a", "b"]);
  answer = [containers("c", "aa", "e")];
  const second = await list({ pageSize: 2, pageToken: first.nextPageToken });
  expect([second.containers.map(({ name }) => name), second.nextPageToken]).toEqual([["c", "e"], ""]);
  expect((await list({ name: "a" })).containers.map(({ name }) => name)).toEqual(["aa"]);
  expect((await list({ states: [State.EXITED] })).containers).toEqual([]);
  expect(await reasonOf(list({ pageToken: "nonsense" }))).toBe("PAGE_TOKEN_INVALID");
});

test("where the cluster's policy does not ask for it nobody is asked: FOREIGN_CONTAINERS_NOT_REPORTED", async () => {
  const { cluster } = await slices.operator.agents.getAgent({ id: agentId });
  await slices.operator.clusters.updateCluster({
    cluster: { id: cluster, policy: {} },
    updateMask: { paths: ["policy.report_foreign_containers"] },
  });
  expect(await reasonOf(list())).toBe("FOREIGN_CONTAINERS_NOT_REPORTED");
  expect(asked.size).toBe(0);
});

test("what the host's owner denies is refused before the agent is asked, and by the agent where the server does not know", async () => {
  await capable("images", "denies/foreign-containers");
  expect(await reasonOf(list())).toBe("DENIED_BY_HOST");
  expect(asked.size).toBe(0);
  await capable("images", "foreign-containers");
  answer = [{ case: "error", value: { reason: "DENIED_BY_HOST", message: "no" } }];
  expect(await reasonOf(list())).toBe("DENIED_BY_HOST");
});

test("an agent that cannot tell says why: no containers, too old, an engine that is away, no answer", async () => {
  await capable("images");
  expect(await reasonOf(list())).toBe("FOREIGN_CONTAINERS_UNSUPPORTED");
  expect(asked.size).toBe(0);
  await capable("foreign-containers");
  const said: [Frame[], string][] = [
    [
      [{ case: "error", value: { reason: "UNSUPPORTED", message: "never heard of it" } }],
      "FOREIGN_CONTAINERS_UNSUPPORTED",
    ],
    [[{ case: "error", value: { reason: "INTERNAL", message: "the engine is away" } }], "TUNNEL_LOST"],
    [[], "TUNNEL_LOST"],
  ];
  for (const [frames, reason] of said) {
    answer = frames;
    expect(await reasonOf(list())).toBe(reason);
  }
});

test("an agent that tells without end is cut off, and the answer says so", async () => {
  answer = Array.from({ length: 400 }, (_, index) => containers(`c-${index}`));
  expect(await list({ returnTotalSize: true })).toMatchObject({ truncated: true, totalSize: 257 });
});

test("agents that are away, gone or unknown have their reasons, and providers may not ask", async () => {
  expect(await reasonOf(list({ agent: "nobody" }))).toBe("NOT_FOUND");
  const provider = slices.api.as(AgentsService, await slices.account(`provider-${named}`, Role.PROVIDER));
  expect(await reasonOf(provider.listForeignContainers({ agent: agentId }))).toBe("PERMISSION_DENIED");
  await slices.db
    .updateTable("sessions")
    .set({ state: "ENDED", ended_at: new Date(0) })
    .where("agent_id", "=", agentId)
    .execute();
  expect(await reasonOf(list())).toBe("AGENT_OFFLINE");
  await slices.operator.agents.revokeAgent({ id: agentId });
  expect(await reasonOf(list())).toBe("AGENT_REVOKED");
});
