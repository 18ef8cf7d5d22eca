/**
 * A load balancer as one puts it in front of replicas: TCP, one replica after
 * another among those whose `/ready` says so. A connection stays where it is
 * until it ends.
 */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { atEnd } from "./endings.ts";

export interface Balancer {
  url: string;
  /** The replicas that get new connections now. */
  ready(): readonly string[];
  /** Resolves when a look at each replica that began after the call has ended. */
  looked(): Promise<void>;
  /** Called at the end by itself. */
  end(): Promise<void>;
}

/** Far below what one sets in production, so that tests needn't wait. */
const lookEveryMs = 100;
const answerWithinMs = 2_000;

/** Starts one on a free port of 127.0.0.1. `urls`: of the replicas, also of some that don't run yet. */
export async function startBalancer(urls: readonly string[]): Promise<Balancer> {
  const sockets = new Set<Socket>();
  const over = new AbortController();
  const ready = new Set<string>();
  /** Whose last look was not answered in time: once says nothing, since it may be this process that stood still. */
  const late = new Set<string>();
  /** Connections that came while none was ready, as a balancer's queue has them: on a busy machine all may be late. */
  const waiting = new Set<Socket>();
  const looks = new Map<string, number>();
  let turn = 0;

  const server = createServer((near) => {
    near.on("error", () => {}); // Its peer's affair.
    sockets.add(near);
    near.once("close", () => sockets.delete(near));
    lead(near);
  });
  const lead = (near: Socket): void => {
    const chosen = [...ready][(turn += 1) % Math.max(1, ready.size)];
    if (chosen === undefined) return void waiting.add(near);
    if (near.destroyed) return;
    const { hostname: host, port } = new URL(chosen);
    const far = connect({ host, port: Number(port), noDelay: true });
    near.setNoDelay(true);
    far.on("error", () => near.destroy()); // No reset: Node loses a socket that is shutting down then.
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(socket);
      socket.pipe(other);
      socket.once("close", () => {
        sockets.delete(socket);
        other.destroySoon(); // what is still on its way to it comes first
      });
    }
  };
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()));

  // Each replica is looked at apart: one that is slow to answer keeps nobody from seeing that another has gone.
  const look = async (url: string): Promise<void> => {
    const limit = AbortSignal.timeout(answerWithinMs);
    const signal = AbortSignal.any([over.signal, limit]);
    const answer = await fetch(`${url}/ready`, { signal, headers: { connection: "close" } }).catch(() => undefined);
    await answer?.arrayBuffer().catch(() => undefined); // it went away while it answered
    if (answer === undefined && limit.aborted && !late.has(url)) late.add(url);
    else {
      late.delete(url);
      if (answer?.ok === true) ready.add(url);
      else ready.delete(url);
    }
    if (ready.size > 0) {
      const led = [...waiting];
      waiting.clear();
      led.forEach(lead);
    }
    looks.set(url, (looks.get(url) ?? 0) + 1);
  };
  await Promise.all(urls.map(look));
  const looking = Promise.all(
    urls.map(async (url) => {
      while (!over.signal.aborted) {
        await sleep(lookEveryMs);
        await look(url);
      }
    }),
  );
  let ending: Promise<void> | undefined;
  const end = (): Promise<void> =>
    (ending ??= (async () => {
      over.abort();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await Promise.all([closed, looking]);
    })());
  atEnd(end);
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}`,
    ready: () => [...ready],
    async looked() {
      const seen = new Map(looks);
      // One look may be under way, so the second is the first that began after.
      const enough = () => urls.every((url) => (looks.get(url) ?? 0) >= (seen.get(url) ?? 0) + 2);
      while (!enough() && !over.signal.aborted) await sleep(lookEveryMs / 2);
    },
    end,
  };
}
