/** One of these servers as a process of its own. */
import { monitorEventLoopDelay } from "node:perf_hooks";
import { answerCalls } from "../stand/child.ts";
import { bare } from "./bare.ts";
import { connectNode } from "./connect-node.ts";
import { grpcJs } from "./grpc-js.ts";
import type { WireOptions, WireServer } from "./servers.ts";

const wires: Record<string, (options: WireOptions) => Promise<WireServer>> = {
  "bare node:http2": bare,
  "grpc-js": grpcJs,
  "connect-node": connectNode,
};

/** As Bowline's metrics measure it (prom-client): every 10 ms. */
const delay = monitorEventLoopDelay({ resolution: 10 });
delay.enable();
let server: WireServer | undefined;

export const calls = {
  /** Where it listens. */
  async start(given: { wire: string } & WireOptions): Promise<string> {
    const open = wires[given.wire];
    if (open === undefined) throw new Error(`there is no wire ${given.wire}`);
    server = await open(given);
    return server.url;
  },
  /** p99 since the start of the process, ms. */
  async eventLoopDelayP99Ms(): Promise<number> {
    return delay.percentile(99) / 1e6;
  },
};

export type WireCalls = typeof calls;

answerCalls(calls, async () => server?.close());
