/**
 * Publishes, at a rate, to groups of agents; and how long each takes to be LIVE.
 *
 * L1: a group has one publish at a time: a second one would take the first's
 *     place, and its time would never be known. Where every group has one, the
 *     publish is left out and counted.
 * L2: a time begins before the call and ends when the watch has told of LIVE:
 *     what somebody who watches sees.
 * L3: a group has a product and a gateway of its own: publishes of one product
 *     wait for each other at the server, and many teams have many products.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Code } from "@connectrpc/connect";
import { PathMatch_Type } from "@bowline/contract/deployments";
import { type ProductPublish, ProductPublish_State as State } from "@bowline/contract/products";
import { refusalOf } from "@bowline/session";
import { createTimes, type Times } from "@bowline/testing/fleet";
import type { Api } from "./api.ts";

export interface Load {
  counts: LoadCounts;
  times: Times;
  errors: ReadonlyMap<string, number>;
  /** Publishes that are not LIVE or FAILED yet. */
  open(): number;
  /** Publishes until `signal` aborts. */
  publish(signal: AbortSignal): Promise<void>;
  /** Watches until `signal` aborts. */
  watch(signal: AbortSignal): Promise<void>;
  /** Removes what it made and no cluster holds. */
  clean(): Promise<void>;
}

export interface LoadCounts {
  made: number;
  live: number;
  failed: number;
  /** Calls that were refused, or had no answer after several tries. */
  refused: number;
  /** L1 */
  leftOut: number;
}

export interface LoadSettings {
  api: Api;
  clusterId(): string;
  /** Unique; names what it makes. */
  name: string;
  agents: number;
  agentsPerPublish: number;
  perSecond: number;
}

/** An agent's label that its group's gateway asks for. */
export const groupLabel = "fleet-group";
/** Calls that fail are not made faster than this. */
const againMs = 1_000;
/** With what a call may take, a few minutes: longer than a server is away for an upgrade. */
const publishTries = 5;
/** Listeners' ports are of simulated hosts; each gateway of a host has its own. */
const port = 20_000;

interface Group {
  gatewayId: string;
  revisionId: string;
  /** When the publish that is under way was made; undefined: none is. */
  startedAt: number | undefined;
  /** The publish whose end was told last: a watch may repeat it. */
  endedId: string;
}

/** Agents are spread over groups evenly, one after the other. */
export function groupsOf(agents: number, agentsPerPublish: number): number {
  return Math.max(1, Math.floor(agents / agentsPerPublish));
}

export function createLoad(settings: LoadSettings): Load {
  const { api, name, perSecond } = settings;
  const clusterId = () => settings.clusterId();
  const counts: LoadCounts = { made: 0, live: 0, failed: 0, refused: 0, leftOut: 0 };
  const times = createTimes();
  const errors = new Map<string, number>();
  const groups: Group[] = Array.from({ length: groupsOf(settings.agents, settings.agentsPerPublish) }, () => ({
    ...{ gatewayId: "", revisionId: "", startedAt: undefined, endedId: "" },
  }));
  let next = 0;

  const failed = (what: string, error: unknown): void => {
    const key = `${what}: ${refusalOf(error).reason}`;
    errors.set(key, (errors.get(key) ?? 0) + 1);
  };

  /** L3 */
  async function prepare(at: number, group: Group): Promise<void> {
    if (group.gatewayId !== "") return;
    const own = `${name}-${at}`;
    await api.products.applyProduct({
      manifest: {
        name: own,
        apiServices: [
          {
            name: own,
            routes: [
              {
                name: own,
                matches: [{ path: { type: PathMatch_Type.PREFIX, value: `/${own}` } }],
                // No backend: some clusters allow no private ones, and nobody ever asks for it.
                filters: [{ kind: { case: "redirect", value: { statusCode: 302, hostname: "example.com" } } }],
              },
            ],
          },
        ],
      },
    });
    group.revisionId = (await api.products.createRevision({ productId: own })).id;
    const { id } = await api.gateways.createGateway({
      gateway: {
        name: own,
        agentLabels: { [groupLabel]: own },
        listeners: [{ name: "http", port, protocol: "HTTP" }],
      },
    });
    group.gatewayId = id;
  }

  function freeGroup(): number | undefined {
    for (let tried = 0; tried < groups.length; tried += 1) {
      const at = next % groups.length;
      next += 1;
      if (groups[at]?.startedAt === undefined) return at;
    }
    return undefined;
  }

  async function publishOne(at: number, group: Group): Promise<void> {
    group.startedAt = performance.now(); // L1
    try {
      await prepare(at, group);
      const { gatewayId, revisionId } = group;
      group.startedAt = performance.now(); // L2
      await repeated(`${name} ${at} ${group.endedId}`, (requestId) =>
        api.publishes.createProductPublish({
          productId: `${name}-${at}`,
          clusterId: clusterId(),
          gatewayId,
          revisionId,
          requestId,
        }),
      );
      counts.made += 1;
    } catch (error) {
      group.startedAt = undefined;
      counts.refused += 1;
      failed("publish", error);
    }
  }

  /** As a client does it: what got no answer, or a 503, is asked again with its key, and done once. */
  async function repeated(requestId: string, call: (requestId: string) => Promise<unknown>): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        return void (await call(requestId));
      } catch (error) {
        const { code, retryAfterMs = againMs } = refusalOf(error);
        if (tries >= publishTries || (code !== Code.Unavailable && code !== Code.DeadlineExceeded)) throw error;
        failed("publish repeated", error);
        await sleep(retryAfterMs);
      }
    }
  }

  function seen({ id, state, reason, product }: ProductPublish): void {
    if (!product.startsWith(`${name}-`) || (state !== State.LIVE && state !== State.FAILED)) return;
    const group = groups[Number(product.slice(name.length + 1))];
    if (group?.startedAt === undefined || id === group.endedId) return;
    if (state === State.LIVE) {
      counts.live += 1;
      times.add(performance.now() - group.startedAt);
    } else {
      counts.failed += 1;
      errors.set(`FAILED: ${reason}`, (errors.get(`FAILED: ${reason}`) ?? 0) + 1);
    }
    group.startedAt = undefined;
    group.endedId = id;
  }

  return {
    ...{ counts, times, errors },
    open: () => groups.filter(({ startedAt }) => startedAt !== undefined).length,
    async publish(signal) {
      if (perSecond === 0) return;
      const everyMs = 1_000 / perSecond;
      const under = new Set<Promise<void>>();
      for (let due = performance.now(); !signal.aborted; due += everyMs) {
        await sleep(Math.max(0, due - performance.now()), undefined, { signal }).catch(() => undefined); // over
        if (signal.aborted) break;
        const at = freeGroup();
        const group = groups[at ?? -1];
        if (at === undefined || group === undefined) {
          counts.leftOut += 1;
          continue;
        }
        const one: Promise<void> = publishOne(at, group).finally(() => under.delete(one));
        under.add(one);
      }
      await Promise.all(under);
    },
    async watch(signal) {
      let cursor = "";
      while (!signal.aborted) {
        try {
          for await (const event of api.publishes.watchProductPublish({ cursor }, { signal, timeoutMs: 0 })) {
            cursor = event.cursor;
            if (event.productPublish !== undefined) seen(event.productPublish);
          }
        } catch (error) {
          if (signal.aborted) return;
          failed("watch", error);
          cursor = refusalOf(error).reason === "CURSOR_EXPIRED" ? "" : cursor;
          await sleep(againMs, undefined, { signal }).catch(() => undefined); // over
        }
      }
    },
    async clean() {
      for (const [at, { gatewayId, revisionId }] of groups.entries()) {
        if (gatewayId !== "")
          await api.gateways.deleteGateway({ id: gatewayId }).catch((error) => failed("clean", error));
        if (revisionId === "") continue;
        await api.products.deleteProduct({ id: `${name}-${at}` }).catch((error) => failed("clean", error));
      }
    },
  };
}
