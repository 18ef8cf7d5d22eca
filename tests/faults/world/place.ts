/**
 * A cluster of a scenario: its hosts, its callers, and who watches it. Whatever
 * is made through it goes into the history.
 */
import { type Database, openCommandStates } from "@bowline/db";
import { enrolScriptedAgent, type ScriptedAgent, type TestServer, until } from "@bowline/testing";
import type { Kysely } from "kysely";
import { type Api, openApi } from "../../e2e/api.ts";
import type { History } from "../history/history.ts";
import { type Answer, type Call, tryOnce, untilAnswered } from "./calls.ts";
import { type Host, type HostOptions, startHost } from "./hosts.ts";
import { testify } from "./witness.ts";
import { watchCommands } from "./watching.ts";

/** Of a session that opens and of commands that end, on two busy cores; what a scenario bounds it says itself. */
const usualWithinMs = 60_000;

/** Where nobody listens: a ledger host asks no backend. */
const backend = "http://127.0.0.1:9";

export interface PublishOptions {
  /** The replica that is asked. Default: the place's. */
  url?: string;
  /** Default: a new one. */
  key?: string;
  /** As CommandLimits in REST. */
  limits?: object;
}

/** Waits, and appends how long it took. Throws where it never came. */
export type Within = <T>(what: string, boundMs: number, condition: () => T | Promise<T>) => Promise<void>;

export interface Published extends Answer {
  key: string;
  product: string;
  version: string;
  /** The first of its commands; throws where it has none. */
  command: string;
}

export interface Place {
  history: History;
  cluster: string;
  clusterId: string;
  /** Where agents dial and callers call; a scenario may set it to another replica's. */
  url: string;
  api(): Api;
  db: Kysely<Database>;
  /** Starts an agent on a new host, and waits until it is served. */
  host(options?: HostOptions & { url?: string }): Promise<Host>;
  /** A registration token of this cluster. */
  registrationToken(): Promise<string>;
  scripted(options?: { url?: string; name?: string }): Promise<ScriptedAgent>;
  /** Applies the product's next version. The call that publishes it, to be tried or repeated. */
  prepare(product: string, options?: PublishOptions): Promise<Call & { product: string }>;
  /** Publishes the product's next version, repeating the call until it is answered; throws where it is refused. */
  publish(product: string, options?: PublishOptions): Promise<Published>;
  unpublish(id: string): Promise<Answer>;
  /** One try of a call. */
  once(call: Call & { product: string }): Promise<Published>;
  /** Until it is answered. */
  call(call: Call & { product: string }): Promise<Published>;
  cancel(command: string, boundMs: number): Promise<Answer>;
  row(command: string): Promise<Row>;
  session(agentId: string): Promise<SessionRow>;
  /** Waits until the agent is in a session, above `epoch`. */
  serving(agentId: string, options?: { above?: number; boundMs?: number }): Promise<SessionRow>;
  /** Waits until every command of the cluster has ended. */
  settled(boundMs?: number): Promise<void>;
  /** Its last words, for the checker. */
  close(): Promise<void>;
}

export type Row = Awaited<ReturnType<typeof rowOf>>;
export type SessionRow = Awaited<ReturnType<typeof sessionOf>>;

const rowOf = (db: Kysely<Database>, command: string) =>
  db.selectFrom("command_states").selectAll().where("command_id", "=", command).executeTakeFirstOrThrow();

const sessionOf = (db: Kysely<Database>, agentId: string) =>
  db.selectFrom("sessions").selectAll().where("agent_id", "=", agentId).executeTakeFirstOrThrow();

export async function createPlace(parts: {
  history: History;
  server: TestServer;
  cluster: string;
  within: Within;
}): Promise<Place> {
  const { history, server, cluster, within } = parts;
  const { db } = server.database;
  const { id: clusterId } = await server.operator.cluster(cluster);
  const hosts: { folder: string; agentId: string; host: Host }[] = [];
  const versions = new Map<string, number>();
  let calls = 0;
  const place: Place = {
    ...{ history, cluster, clusterId, url: server.url, db },
    api: () => openApi(place.url, server.adminToken),
    registrationToken: async () => (await place.api().tokens.createRegistrationToken({ clusterId })).token,
    async host({ url = place.url, ...options } = {}) {
      const host = startHost(url, { token: await place.registrationToken(), ...options });
      const agentId = await host.agentId();
      hosts.push({ folder: host.folder, agentId, host });
      await place.serving(agentId);
      return host;
    },
    async scripted({ url = place.url, ...options } = {}) {
      return enrolScriptedAgent({ url, token: await place.registrationToken(), ...options });
    },
    async prepare(product, { url = place.url, key = `${cluster} ${(calls += 1)}`, limits } = {}) {
      const number = (versions.get(product) ?? 0) + 1;
      versions.set(product, number);
      const version = `${product}-${number}`;
      const revision = await applyVersion(openApi(url, server.adminToken), `${cluster}-${product}`, version);
      const body = { product_id: `${cluster}-${product}`, cluster_id: clusterId, revision_id: revision };
      const path = "/v1/provider/product-publishes";
      const more = limits === undefined ? body : { ...body, limits };
      return { what: "publish", key, url, path, token: server.adminToken, body: more, version, product };
    },
    once: async (call) => published(call, await tryOnce(call, history)),
    call: async (call) => published(call, await untilAnswered(call, history)),
    async publish(product, options) {
      const answer = await place.call(await place.prepare(product, options));
      if (answer.outcome !== "ok") throw new Error(`the publish of ${product} was refused: ${answer.reason}`);
      return answer;
    },
    async unpublish(id) {
      const path = `/v1/provider/product-publishes/${id}:unpublish`;
      const key = `${cluster} ${(calls += 1)}`;
      const answer = await untilAnswered(
        { what: "unpublish", key, url: place.url, path, token: server.adminToken, body: {} },
        history,
      );
      if (answer.outcome !== "ok") throw new Error(`the removal of ${id} was refused: ${answer.reason}`);
      return answer;
    },
    async cancel(command, boundMs) {
      const path = `/v1/operator/commands/${command}:cancel`;
      const key = `${cluster} ${(calls += 1)}`;
      const call = { what: "cancel", key, url: place.url, path, token: server.adminToken, body: {}, boundMs } as const;
      return untilAnswered(call, history);
    },
    row: (command) => rowOf(db, command),
    session: (agentId) => sessionOf(db, agentId),
    async serving(agentId, { above = 0, boundMs = usualWithinMs } = {}) {
      await within(`agent ${agentId} is served, above epoch ${above}`, boundMs, async () => {
        const { state, epoch } = await sessionOf(db, agentId);
        return state === "SERVING" && epoch > above;
      });
      return sessionOf(db, agentId);
    },
    async settled(boundMs = usualWithinMs) {
      await within(`every command of ${cluster} has ended`, boundMs, async () => (await open()).length === 0);
    },
    async close() {
      await within(`a watch was told of every end in ${cluster}`, usualWithinMs, async () => {
        const ended = await endedCommands();
        return ended.every((id) => watching.ended().has(id));
      }).catch(() => undefined); // it is in the history
      await watching.stop();
      for (const { folder, agentId, host } of hosts) {
        for (const { at, part: _, ...line } of host.ledger()) {
          history.append({ kind: "effect", host: folder, agent: agentId, ...line }, at);
        }
      }
      await testify(db, [clusterId], history);
    },
  };
  const watching = watchCommands(() => place.api(), clusterId, history);
  return place;

  function inCluster() {
    return db
      .selectFrom("command_states as s")
      .innerJoin("commands as c", "c.id", "s.command_id")
      .select("c.id")
      .where("c.cluster_id", "=", clusterId);
  }
  function open() {
    return inCluster().where("s.state", "in", openCommandStates).execute();
  }
  async function endedCommands(): Promise<string[]> {
    const rows = await inCluster().where("s.state", "not in", openCommandStates).execute();
    return rows.map(({ id }) => id);
  }
}

function published(call: Call & { product: string }, answer: Answer): Published {
  return {
    ...answer,
    ...{ key: call.key, product: call.product, version: call.version ?? "" },
    get command() {
      const [first] = answer.commands;
      if (first === undefined) throw new Error(`the publish of ${call.product} has no command: ${answer.reason}`);
      return first.command;
    },
  };
}

/** The product at this version, as its routes' `x-version`; repeated while nobody answers. Returns the revision's id. */
async function applyVersion(api: Api, name: string, version: string): Promise<string> {
  return until(() => applyOnce(api, name, version), { withinMs: usualWithinMs, what: `${version} is applied` });
}

async function applyOnce(api: Api, name: string, version: string): Promise<string> {
  const filters = [
    { kind: { case: "responseHeaderModifier" as const, value: { set: [{ name: "x-version", value: version }] } } },
  ];
  const { revision } = await api.products.applyProduct({
    manifest: {
      name,
      apiServices: [
        {
          name,
          backends: [{ name: "upstream", url: backend }],
          routes: [
            {
              name: "all",
              matches: [{ path: { type: 2, value: `/${name}` } }],
              backends: [{ backend: "upstream" }],
              filters,
            },
          ],
        },
      ],
    },
  });
  return revision?.id ?? "";
}
