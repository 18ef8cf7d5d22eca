/**
 * A TCP proxy that misbehaves when it is told to, in front of a server, a
 * Redis or a PostgreSQL (databaseProxy, which a unix socket may be behind):
 *
 *     const proxy = await startTcpProxy({ host: "127.0.0.1", port: 6379 });
 *     proxy.cut();                      // away: what is open is reset, what comes is reset
 *     proxy.mend();                     // back again
 *     proxy.hold("down");               // answers wait here, in order
 *     proxy.release();
 *     proxy.redirect({ port });         // leads elsewhere, as after a failover
 *     proxy.delay(5_000);               // each way, each byte that comes from now on
 *     proxy.throttle(64_000);           // bytes per second, of each connection in each direction
 *     proxy.reorder(300, random);       // what several connections say arrives in another order
 *     const trap = proxy.trap({ up: "UPDATE command_states" }, { down: "COMMIT" });
 *     const caught = await trap.caught; // one connection stands still just before the bytes of the last step
 *     caught.release();                 // or caught.cut(): the COMMIT's reply is lost
 *
 * "up" is towards the target, "down" is back. X1: bytes of one direction keep
 * their order, and none is lost except by a cut.
 */
import { connect, createServer, type AddressInfo, type NetConnectOpts, type Socket } from "node:net";
import { join } from "node:path";
import type { DatabaseAddress } from "@bowline/db";
import { atEnd } from "./endings.ts";
import { createPipe, type Pipe } from "./tcp-pipe.ts";

export type Direction = "up" | "down";

/** Where bytes are looked for, and which. */
export type TrapStep = { up: string } | { down: string };

/** A connection that stands still in one direction. */
export interface Caught {
  /** Lets what was held go on. */
  release(): void;
  /** Resets the connection on both sides; what was held is lost. */
  cut(): void;
}

export interface Trap {
  /** Resolves when a connection has gone through all steps, in their order. */
  caught: Promise<Caught>;
  /** Catches nothing any more, if it has not yet. */
  disarm(): void;
}

export interface TcpProxy {
  host: string;
  port: number;
  /** Connections that are open through it now. */
  connections(): number;
  /** Resets every connection, and each that comes, until `mend`. */
  cut(): void;
  mend(): void;
  /** Keeps bytes back, of all connections, also new ones. Default: both directions. */
  hold(direction?: Direction): void;
  /** Lets go what `hold` kept, and passes again. */
  release(): void;
  /** Where new connections lead from now on; those that are open stay where they are. */
  redirect(target: NetConnectOpts): void;
  /** Adds this time to the way, in each direction; 0 passes at once again. */
  delay(ms: number): void;
  /** Lets so many bytes through per second, of each connection, in each direction; Infinity passes at once again. */
  throttle(bytesPerSecond: number): void;
  /**
   * Keeps each piece back for up to `withinMs`, as `random` (0 to below 1) says, so that what comes on one connection
   * overtakes what came before on another. Within a connection the order stays (X1). 0 passes at once again.
   */
  reorder(withinMs: number, random?: () => number): void;
  /** Holds the first connection that says these in this order, just before the bytes of the last. Armed once. */
  trap(...steps: [TrapStep, ...TrapStep[]]): Trap;
  /** Called at the end by itself. */
  end(): Promise<void>;
}

type Armed = { steps: readonly TrapStep[]; catch: (caught: Caught) => void };
type Link = { up: Pipe; down: Pipe; destroy: () => void };

/** Starts a proxy on a free port of 127.0.0.1. */
export async function startTcpProxy(first: NetConnectOpts): Promise<TcpProxy> {
  let target = first;
  const links = new Set<Link>();
  const traps = new Set<Armed>();
  const state = {
    ...{ away: false, held: new Set<Direction>(), delayMs: 0, bytesPerSecond: Infinity },
    apartMs: (): number => 0,
  };

  const server = createServer({ allowHalfOpen: true }, (near) => {
    near.on("error", () => {}); // A reset is what some tests make.
    if (state.away) return void near.resetAndDestroy();
    const far = connect({ ...target, allowHalfOpen: true });
    far.on("error", () => {});
    const destroy = (): void => {
      for (const socket of [near, far]) reset(socket);
      for (const pipe of [link.up, link.down]) pipe.end();
      links.delete(link);
    };
    /** How far this connection is on its way into each trap. */
    const progress = new Map<Armed, number>();
    const pipe = (direction: Direction, from: Socket, to: Socket): Pipe =>
      createPipe(from, to, {
        delayMs: () => state.delayMs + state.apartMs(),
        bytesPerSecond: () => state.bytesPerSecond,
        held: () => state.held.has(direction),
        meets: (bytes) => meets(direction, bytes, progress, link, destroy),
      });
    const link: Link = { up: pipe("up", near, far), down: pipe("down", far, near), destroy };
    links.add(link);
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      // Who ended well and has all that it was sent is done; what the other one is still sent is not cut off (X1).
      const isDone = (): boolean => socket.readableEnded && socket.writableFinished && !other.closed;
      socket.once("close", () => void (isDone() || destroy()));
    }
  });

  /** Whether a trap closes on this chunk; also moves the steps before the last. */
  function meets(
    direction: Direction,
    bytes: Buffer,
    progress: Map<Armed, number>,
    link: Link,
    cut: () => void,
  ): boolean {
    for (const trap of traps) {
      let from = 0;
      for (;;) {
        const at = progress.get(trap) ?? 0;
        const step = trap.steps[at];
        const wanted = step === undefined ? undefined : (step as Partial<Record<Direction, string>>)[direction];
        const found = wanted === undefined ? -1 : bytes.indexOf(wanted, from, "latin1");
        if (found < 0) break;
        if (at === trap.steps.length - 1) {
          traps.delete(trap);
          trap.catch({ release: () => link[direction].release(), cut });
          return true;
        }
        progress.set(trap, at + 1);
        from = found + (wanted?.length ?? 0);
      }
    }
    return false;
  }

  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(0, "127.0.0.1", () => resolve());
  });
  const { port } = server.address() as AddressInfo;
  const pump = (): void => links.forEach(({ up, down }) => [up, down].forEach((pipe) => pipe.pump()));
  let ending: Promise<void> | undefined;
  const proxy: TcpProxy = {
    host: "127.0.0.1",
    port,
    connections: () => links.size,
    cut() {
      state.away = true;
      for (const link of links) link.destroy();
    },
    mend: () => void (state.away = false),
    hold(direction) {
      for (const one of direction === undefined ? (["up", "down"] as const) : [direction]) state.held.add(one);
    },
    release() {
      state.held.clear();
      pump();
    },
    redirect: (other) => void (target = other),
    delay: (ms) => void (state.delayMs = ms),
    throttle(bytesPerSecond) {
      state.bytesPerSecond = bytesPerSecond;
      pump();
    },
    reorder(withinMs, random = Math.random) {
      state.apartMs = () => withinMs * random();
    },
    trap(...steps) {
      const { promise: caught, resolve } = Promise.withResolvers<Caught>();
      const armed: Armed = { steps, catch: resolve };
      traps.add(armed);
      return { caught, disarm: () => void traps.delete(armed) };
    },
    end: () =>
      (ending ??= new Promise((resolve) => {
        server.close(() => resolve());
        for (const link of links) link.destroy();
      })),
  };
  atEnd(() => proxy.end());
  return proxy;
}

/** A proxy in front of a test's database, with the address for `BOWLINE_DATABASE_URL` that leads through it. */
export async function databaseProxy(database: { address: DatabaseAddress }): Promise<TcpProxy & { url: string }> {
  const { address } = database;
  if (typeof address === "string") {
    const url = new URL(address);
    const proxy = await startTcpProxy({ host: url.hostname, port: Number(url.port === "" ? 5432 : url.port) });
    url.hostname = proxy.host;
    url.port = String(proxy.port);
    return Object.assign(proxy, { url: url.href });
  }
  const { host, port, user, database: name } = address;
  const socket = host.startsWith("/") ? { path: join(host, `.s.PGSQL.${port}`) } : { host, port };
  const proxy = await startTcpProxy(socket);
  return Object.assign(proxy, { url: `postgres://${user}@${proxy.host}:${proxy.port}/${name}` });
}

/** As a dead machine's neighbour sees it; a unix socket, which knows no reset, just ends. */
function reset(socket: Socket): void {
  if (socket.remoteFamily === undefined) socket.destroy();
  else socket.resetAndDestroy();
}
