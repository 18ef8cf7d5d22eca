/**
 * How peers serve callers and agents: the very code that Bowline serves them
 * with (its port, its wire for agents, its handler of the API with log, metrics,
 * limits and validation around each call), and a peer's queue behind it. So
 * that a comparison is of what keeps the commands, and of nothing else.
 *
 * Left out: the look at the caller's token, which Bowline keeps in PostgreSQL.
 */
import type { ConnectRouter } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { AgentService } from "@bowline/contract/agent";
import { createWire, maxStreamMessageBytes, maxUnaryMessageBytes, type WireHandlers } from "@bowline/session";
import { createLog } from "../../services/control-plane/src/log.ts";
import { createAround } from "../../services/control-plane/src/platform/calls.ts";
import { clientAddresses } from "../../services/control-plane/src/platform/client-address.ts";
import { systemPrincipal } from "../../services/control-plane/src/platform/context.ts";
import { createCors } from "../../services/control-plane/src/platform/cors.ts";
import { createHttpHandler, createStreamHandler } from "../../services/control-plane/src/platform/http.ts";
import { interceptors } from "../../services/control-plane/src/platform/interceptors.ts";
import { createMetrics } from "../../services/control-plane/src/platform/metrics.ts";
import { surrounded } from "../../services/control-plane/src/platform/own-wire.ts";
import { listen } from "../../services/control-plane/src/platform/port.ts";

export interface Serving {
  url: string;
  close(): Promise<void>;
}

/** `routes`: what callers call. `agents`: what agents call. */
export async function serve(
  routes: (router: ConnectRouter) => void,
  agents: WireHandlers<typeof AgentService>,
): Promise<Serving> {
  const log = await createLog({ level: "info", format: "json" });
  const metrics = createMetrics();
  const around = createAround({
    authenticate: async () => systemPrincipal,
    log,
    observe: (call) => metrics.observe(call),
    // As Bowline's servers have them here: its callers are one address and one token.
    rateLimits: { principal: 0, address: 0, refused: (limit) => metrics.refused(limit) },
  });
  const clientAddress = clientAddresses("");
  const nowhere: Parameters<typeof createHttpHandler>[0]["rest"]["notFound"] = (_, response) => {
    response.statusCode = 404;
    response.end();
  };
  const port = await listen({
    ...{ host: "127.0.0.1", port: 0, log },
    handler: createHttpHandler({
      ...{ clientAddress, cors: createCors([]), version: "bench" },
      rest: { handle: () => false, notFound: nowhere, fail: nowhere, openapi: () => ({}) },
      connect: connectNodeAdapter({ routes, interceptors: interceptors(around), readMaxBytes: maxUnaryMessageBytes }),
      ready: async () => ({ ready: true, checks: {} }),
      metrics: () => metrics.read(),
    }),
    streams: createStreamHandler({
      clientAddress,
      wire: createWire(AgentService, surrounded(AgentService, agents, around), { limitBytes: maxStreamMessageBytes }),
    }),
  });
  return { url: port.url, close: () => port.close(0) };
}
