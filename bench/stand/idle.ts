/**
 * Servers with many idle agents, Bowline's and bare ones, in clear text and over TLS. Servers that agents hold at the
 * same time have agents, a database and a load of their own: who dials two replicas of one database leaves the first,
 * and a process may open 20,000 files on many machines.
 */
import { get as getClear } from "node:http";
import { get as getSecure } from "node:https";
import { certificates, type TestServer } from "@bowline/testing";
import type { LoadCalls } from "../load/main.ts";
import type { Child } from "./child.ts";
import { enrolGroup } from "./seed.ts";
import { asDatabase, type Stand } from "./stand.ts";

/** Dials under way at the same time: a server's queue of connections has 4,096 places. */
const together = 64;

export interface IdleServer {
  url: string;
  pid: number;
  /** Where it was started `inspected`: the address for harness/garbage.ts. */
  inspector: string | undefined;
  kill(): Promise<void>;
  /** At the same port, with the same data. */
  again(): Promise<IdleServer>;
  eventLoopDelayP99Ms(): Promise<number>;
}

export type Kind = "Bowline" | "bare";

export interface Idle {
  /** Starts one and returns when it listens. */
  start(secure: boolean): Promise<IdleServer>;
  /** Connects all agents to it, or the first `only`. `idle`: they say their heartbeats; else nothing. */
  connect(streams: string, to: Pick<IdleServer, "url">, how?: { only?: number; idle?: boolean }): Promise<void>;
}

/** At a free port, which it tells. */
const inspect = "--inspect=127.0.0.1:0";
const inspectorIn = (said: string): string | undefined => /Debugger listening on (ws:\S+)/.exec(said)?.[1];

/** Makes `count` agents of that kind, once; each server of Bowline's is on their database, which `name` names. */
export async function openIdle(
  stand: Stand,
  load: Child<LoadCalls>,
  {
    name,
    kind,
    count,
    flags,
    inspected = false,
  }: { name: string; kind: Kind; count: number; flags: readonly string[]; inspected?: boolean },
): Promise<Idle> {
  const { ca, server: certificate } = certificates();
  const files = certificate.files();
  const bowline = (server: TestServer): IdleServer => ({
    url: server.url,
    pid: server.process.pid,
    inspector: inspectorIn(server.process.output()),
    kill: async () => void (await server.kill()),
    again: async () => bowline(await server.again()),
    eventLoopDelayP99Ms: async () => {
      const text = await page(`${server.url}/metrics`, ca.cert);
      return Number(/^nodejs_eventloop_lag_p99_seconds (\S+)/m.exec(text)?.[1] ?? Number.NaN) * 1000;
    },
  });
  const bare = async (secure: boolean, port: number): Promise<IdleServer> => {
    const tls = secure ? { cert: certificate.chain, key: certificate.key } : undefined;
    const { child, url } = await stand.wire({ wire: "bare node:http2", port, tls }, inspected ? [inspect] : []);
    return {
      ...{ url, pid: child.pid, inspector: inspectorIn(child.said()) },
      kill: () => child.kill(),
      again: () => bare(secure, Number(new URL(url).port)),
      eventLoopDelayP99Ms: () => child.call("eventLoopDelayP99Ms", undefined),
    };
  };
  const limits = ["--dials-per-second", "0"]; // how fast agents come is what is measured, or is waited for
  const start = await (kind === "bare" ? namedAgents() : enrolledAgents());
  return {
    start,
    async connect(streams, { url }, { only = count, idle = false } = {}) {
      const how = { url, protocol: "connect", ca: ca.cert, together, only, idle } as const;
      await load.call("openStreams", { streams, group: name, ...how });
    },
  };

  async function namedAgents(): Promise<Idle["start"]> {
    await load.call("enrol", { group: name, url: "", count });
    return (secure) => bare(secure, 0);
  }

  async function enrolledAgents(): Promise<Idle["start"]> {
    const database = await stand.database(asDatabase(name));
    const home = await stand.server({ database });
    await enrolGroup(home, load, { group: name, count });
    // What it made at its first start: its key and its administrator, whom the others share.
    const { dataDir } = home;
    await home.stop();
    return async (secure) => {
      const tls = secure ? ["--tls-cert", files.cert, "--tls-key", files.key] : [];
      return bowline(
        await stand.server({
          ...{ database, dataDir: await stand.copy(dataDir), env: inspected ? { NODE_OPTIONS: inspect } : {} },
          flags: ["--redis-url", stand.redis.url, ...limits, ...flags, ...tls],
        }),
      );
    };
  }
}

function page(url: string, ca: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const get = url.startsWith("https:") ? getSecure : getClear;
    const request = get(url, { ca, agent: false } as never, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
      response.on("end", () => resolve(text));
    });
    request.on("error", reject);
  });
}
