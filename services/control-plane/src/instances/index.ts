/**
 * Instances from near: their logs, and programs run in them, through tunnels.
 *
 *   resolve.ts  which are meant     logs.ts, lines.ts  what they write
 *   exec.ts     programs in them    ports.ts
 */
import type { ConnectRouter } from "@connectrpc/connect";
import { create } from "@bufbuild/protobuf";
import { InstanceService, type StreamLogsResponse, StreamLogsResponseSchema } from "@bowline/contract/instances";
import { withIdle } from "@bowline/kernel";
import { callerOf } from "../platform/context.ts";
import { exec } from "./exec.ts";
import { streamLogs } from "./logs.ts";
import type { InstancePorts } from "./ports.ts";

export type { InstancePorts, Place } from "./ports.ts";

/** As the contract says; below the idle timers of proxies. */
const quietMs = 15_000;

export function registerInstances(router: ConnectRouter, ports: InstancePorts): void {
  router.service(InstanceService, {
    async *streamLogs(request, context) {
      const { principal } = callerOf(context);
      async function* told(): AsyncGenerator<StreamLogsResponse> {
        for await (const entries of streamLogs(ports, principal, request, context.signal))
          yield create(StreamLogsResponseSchema, { entries });
      }
      yield* withIdle(told(), quietMs, () => create(StreamLogsResponseSchema), ports.clock);
    },
    exec: (requests, context) => exec(ports, callerOf(context), requests, context.signal),
  });
}
