/**
 * A TCP port: each connection goes to one target, and stays with it.
 *
 * T1: nothing is read from a client before its target has taken the connection,
 *     and nothing faster than the other end takes it.
 * T2: an end of what one side sends is passed on alone: the other direction
 *     stays open (half-close). A broken side breaks the other.
 * T3: a listener stays as it is while only its targets change: what it has
 *     accepted is never lost to a new document.
 */
import { connect, createServer, type Socket } from "node:net";
import type { ForwardDocumentEntry, ForwardTarget } from "@bowline/agent-core/forwards";
import type { Choice } from "./choice.ts";
import type { Relays } from "./relays.ts";

/** A target on this host or beside it that takes longer is taken for gone, and the next is tried. */
const connectLimitMs = 3_000;

/** A peer whose host has gone is noticed by the kernel's probes, not never. */
const keepAliveMs = 60_000;

/** Connections that wait to be accepted, at most; the kernel may have a lower bound. */
const backlog = 4_096;

/** An open port. */
export interface Listening {
  /** Closes the port; what is open goes on. */
  close(): Promise<void>;
}

/** Rejects with the system's error if the port cannot be had. */
export function listenTcp(
  { name, address, port }: ForwardDocumentEntry,
  choice: Choice,
  relays: Relays,
): Promise<Listening> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (client) => {
    client.on("error", () => {}); // its close says the same
    if (relays.full) return void client.resetAndDestroy();
    client.setKeepAlive(true, keepAliveMs);
    tryNext(client, choice.targets(), name, relays);
  });
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: address, port, backlog }, () => {
      server.removeListener("error", reject);
      server.on("error", () => {}); // an accept that failed for want of descriptors: the next one may not
      resolve({
        async close() {
          await new Promise(setImmediate); // what the kernel has accepted already is taken first
          server.close();
        },
      });
    });
  });
}

function tryNext(client: Socket, targets: Iterator<ForwardTarget>, forward: string, relays: Relays): void {
  if (client.destroyed) return;
  const { value: target, done } = targets.next();
  if (done === true) return void client.resetAndDestroy();
  const upstream = connect({
    host: target.host,
    port: target.port,
    allowHalfOpen: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: keepAliveMs,
  });
  const cut = (): void => {
    client.resetAndDestroy();
    upstream.resetAndDestroy();
  };
  const release = relays.add(forward, target.key, cut);
  upstream.setTimeout(connectLimitMs, () => upstream.destroy());
  let joined = false;
  upstream.on("error", () => {}); // its close says the same
  upstream.once("connect", () => {
    joined = true;
    upstream.setTimeout(0);
    if (client.destroyed) return void upstream.resetAndDestroy();
    join(client, upstream);
  });
  client.once("close", () => {
    if (!joined) upstream.destroy();
  });
  upstream.once("close", () => {
    release();
    if (!joined) tryNext(client, targets, forward, relays);
  });
}

/** T1, T2. */
function join(client: Socket, upstream: Socket): void {
  for (const [from, to] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    from.pipe(to); // ends `to` when `from` ends, and no more: both may be half open
    from.once("close", () => {
      // Closed in order, both of its directions have ended, and `to` has only to finish what it holds.
      if (!from.readableEnded || !from.writableFinished) to.resetAndDestroy();
    });
  }
}
