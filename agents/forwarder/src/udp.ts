/**
 * A UDP port: each client address has a socket of its own to one target, until
 * it has been silent for a while.
 *
 * U1: a flow whose target refuses or goes is forgotten; the client's next
 *     datagram begins another one.
 * U2: the table is bounded: a new flow takes the place of the one that has been
 *     silent the longest.
 */
import { createSocket, type RemoteInfo, type Socket } from "node:dgram";
import type { ForwardDocumentEntry } from "@bowline/agent-core/forwards";
import type { Choice } from "./choice.ts";
import type { Relays } from "./relays.ts";
import type { Listening } from "./tcp.ts";

/** Without a datagram in either direction; what load balancers commonly have. */
const idleMs = 60_000;
/** Silent flows are looked for so often. */
const lookMs = 5_000;
/** Of one port. Each has a descriptor (U2). */
const maxFlows = 4_096;
/** Datagrams that wait for the kernel, of one socket; beyond it they are dropped, as a full network would. */
const maxQueued = 256;

interface Flow {
  upstream: Socket;
  connected: boolean;
  /** Before it is connected; a few at most, as `maxQueued` says. */
  waiting: Buffer[];
  lastMs: number;
  end(): void;
}

const family = (address: string): "udp4" | "udp6" => (address.includes(":") ? "udp6" : "udp4");

/** Rejects with the system's error if the port cannot be had. */
export function listenUdp(
  { name, address, port }: ForwardDocumentEntry,
  choice: Choice,
  relays: Relays,
): Promise<Listening> {
  const socket = createSocket(family(address));
  /** By the client's address, the longest silent first. */
  const flows = new Map<string, Flow>();
  const look = setInterval(() => {
    for (const flow of flows.values()) {
      if (performance.now() - flow.lastMs < idleMs) break;
      flow.end();
    }
  }, lookMs);

  const touch = (id: string, flow: Flow): void => {
    flow.lastMs = performance.now();
    flows.delete(id);
    flows.set(id, flow);
  };

  const begin = (id: string, client: RemoteInfo): Flow | undefined => {
    if (flows.size >= maxFlows) flows.values().next().value?.end(); // U2
    const { value: target } = choice.targets().next();
    if (target === undefined || relays.full) return undefined;
    const upstream = createSocket(family(target.host));
    const flow: Flow = {
      upstream,
      connected: false,
      waiting: [],
      lastMs: 0,
      end() {
        if (flows.get(id) === flow) flows.delete(id);
        release();
        upstream.removeAllListeners();
        upstream.on("error", () => {});
        upstream.close();
        flow.end = () => {};
      },
    };
    const release = relays.add(name, target.key, () => flow.end());
    upstream.on("error", () => flow.end()); // U1
    upstream.on("message", (datagram) => {
      touch(id, flow);
      if (socket.getSendQueueCount() < maxQueued) socket.send(datagram, client.port, client.address, () => {});
    });
    upstream.on("connect", () => {
      flow.connected = true;
      for (const datagram of flow.waiting.splice(0)) upstream.send(datagram, refused(flow));
    });
    upstream.connect(target.port, target.host);
    return flow;
  };

  socket.on("message", (datagram, client) => {
    const id = `${client.address} ${client.port}`;
    const flow = flows.get(id) ?? begin(id, client);
    if (flow === undefined) return;
    touch(id, flow);
    if (!flow.connected) {
      if (flow.waiting.length < maxQueued) flow.waiting.push(datagram);
    } else if (flow.upstream.getSendQueueCount() < maxQueued) flow.upstream.send(datagram, refused(flow));
  });

  return new Promise((resolve, reject) => {
    socket.once("error", (error) => {
      clearInterval(look);
      reject(error);
    });
    socket.bind({ port, address, exclusive: true }, () => {
      socket.removeAllListeners("error");
      socket.on("error", () => {}); // an answer that no longer finds its client
      resolve({
        async close() {
          clearInterval(look);
          for (const flow of [...flows.values()]) flow.end(); // answers could not be sent from this port any more
          socket.close();
        },
      });
    });
  });
}

/** U1: the kernel tells a refusal with one of the next calls. */
function refused(flow: Flow): (error: Error | null) => void {
  return (error) => {
    if (error !== null) flow.end();
  };
}
