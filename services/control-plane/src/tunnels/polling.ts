/**
 * TunnelPollingService: tunnels of agents that poll, in requests that may reach
 * any replica.
 *
 *   polled.ts  one of them, where it is waited for      relay.ts  from one replica to another
 */
import type { ReceiveFramesRequest, SendFramesRequest } from "@bowline/contract/agent";
import { TunnelPollingService, type TunnelResponse } from "@bowline/contract/agent";
import type { Client, CallOptions, ConnectRouter, HandlerContext } from "@connectrpc/connect";
import type { Clock } from "@bowline/kernel";
import { maxTunnelRequestBytes } from "@bowline/session";
import { type Polled, takePolled } from "./polled.ts";
import type { Arrived } from "./tunnel.ts";

export interface PollingPorts {
  clock: Clock;
  /** The agent that calls, itself or through another replica. Throws what is wrong with its credential. */
  caller(context: HandlerContext, tunnelId: string): Promise<{ agentId: string; relayed: boolean }>;
  /** Takes a tunnel that is waited for here; undefined: it is not, or is another agent's. */
  arrived(tunnelId: string, agentId: string): ((call: Arrived) => AsyncIterable<TunnelResponse>) | undefined;
  /** Asks the replica where it is waited for. Throws TUNNEL_UNKNOWN, TUNNEL_UNREACHABLE, TUNNEL_LOST. */
  relay<T>(
    tunnel: { tunnelId: string; agentId: string; relayed: boolean },
    ask: (client: Client<typeof TunnelPollingService>, options: CallOptions) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T>;
}

/** Frames of a batch, their envelopes, and a frame that comes on top. */
const maxRequestBytes = 2 * maxTunnelRequestBytes;
/** An agent that did not get its last answer has asked for it again by then. */
const keptMs = 30_000;

export function registerPolledTunnels(router: ConnectRouter, ports: PollingPorts): void {
  const open = new Map<string, Polled>();

  function polledHere(tunnelId: string, agentId: string): Polled | undefined {
    const known = open.get(tunnelId);
    if (known !== undefined) return known.agentId === agentId ? known : undefined;
    const arrived = ports.arrived(tunnelId, agentId);
    if (arrived === undefined) return undefined;
    const polled = takePolled(agentId, arrived, ports.clock);
    open.set(tunnelId, polled);
    const forget = (): void => void setTimeout(() => open.delete(tunnelId), keptMs).unref();
    polled.over.addEventListener("abort", forget, { once: true });
    return polled;
  }

  router.service(
    TunnelPollingService,
    {
      async sendFrames(request: SendFramesRequest, context) {
        const { tunnelId, number, frames, last } = request;
        const caller = await ports.caller(context, tunnelId);
        const polled = polledHere(tunnelId, caller.agentId);
        if (polled !== undefined) return { taken: await polled.send(number, frames, last) };
        const asked = { tunnelId, ...caller };
        return ports.relay(asked, (client, options) => client.sendFrames(request, options), context.signal);
      },
      async receiveFrames(request: ReceiveFramesRequest, context) {
        const { tunnelId, number } = request;
        const caller = await ports.caller(context, tunnelId);
        const polled = polledHere(tunnelId, caller.agentId);
        if (polled !== undefined) return polled.receive(number);
        const asked = { tunnelId, ...caller };
        return ports.relay(asked, (client, options) => client.receiveFrames(request, options), context.signal);
      },
    },
    { readMaxBytes: maxRequestBytes },
  );
}
