/**
 * This replica's tie to Redis: calls behind a breaker, and channels on which
 * replicas hear of each other's hints.
 *
 * K1: nobody waits longer than `commandTimeoutMs` for Redis, and nobody at all
 *     while the breaker is open.
 * K2: the probe goes the whole way, out by a write and a message, in by the
 *     channel that this replica listens on: a Redis that takes commands but
 *     brings nothing counts as away.
 * K3: whatever state a client is in, it is thrown away and made anew when the
 *     probes fail for long.
 */
import type { Clock } from "@bowline/kernel";
import { everyone, type RedisAddress } from "./address.ts";
import { createBreaker } from "./breaker.ts";
import {
  commandTimeoutMs,
  openClients,
  type RedisClients,
  type RedisCommands,
  type RedisCredentials,
} from "./clients.ts";

export interface RedisLinkPorts {
  address: RedisAddress;
  credentials: RedisCredentials;
  /** Of the installation: two may share one Redis. */
  installationId: string;
  replicaId: string;
  clock: Clock;
  log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
  /** The duration of a command, and whether it was answered. */
  observe(command: string, seconds: number, ok: boolean): void;
}

export interface RedisLink {
  /** True while the breaker is open. */
  isAway(): boolean;
  /** Runs a command. Rejects at once while Redis is away, and after 250 ms without an answer (K1). */
  call<T>(name: string, command: (redis: RedisCommands) => Promise<T>): Promise<T>;
  /** Sends to one replica, or to all. False: it is known that nobody listens. */
  publish(to: string, text: string): Promise<boolean>;
  /** `bowline:<installation>:…` */
  key(...parts: readonly string[]): string;
  /** One receiver of each; set before `run`. */
  on: {
    message(text: string): void;
    /** The breaker opened (true) or closed. */
    away(away: boolean): void;
    /** What was said or stored before may be lost: look at everything again. */
    gap(): void;
  };
  /** Dials, and probes until `signal` aborts; then closes. */
  run(signal: AbortSignal): Promise<void>;
  /** Resolves when Redis answered for the first time, or after `ms`. */
  answered(ms: number): Promise<boolean>;
}

const probeEveryMs = 1_000;
/** After a failed probe, while calls still go there: to know soon. */
const probeAgainMs = 250;
/** Failed probes in a row after which the client is made anew (K3): some seconds above a usual failover. */
const renewAfterProbes = 15;
/** `bowline:…:replica:{id}`: a few lost probes don't take it away. */
const replicaTtlMs = 15_000;

export function createRedisLink(ports: RedisLinkPorts): RedisLink {
  const { clock, log, replicaId } = ports;
  const key = (...parts: readonly string[]): string => ["bowline", ports.installationId, ...parts].join(":");
  const channelOf = (to: string): string => key("words", to);
  const own = channelOf(replicaId);
  const closed = new AbortController();
  let clients: RedisClients | undefined;
  let firstAnswer: () => void = () => undefined;
  const answered = new Promise<boolean>((resolve) => (firstAnswer = () => resolve(true)));
  let probe: { nonce: string; heard: () => void } | undefined;
  let stored = false;

  const link: RedisLink = {
    isAway: () => breaker.isOpen(),
    key,
    on: { message: () => undefined, away: () => undefined, gap: () => undefined },
    call: (name, command) => {
      if (breaker.isOpen()) return Promise.reject(new Error("Redis is away")); // K1
      return timed(name, command, false);
    },
    async publish(to, text) {
      const listeners = await link.call("publish", (redis) => redis.publish(channelOf(to), text));
      return listeners > 0 || clients?.countsListeners !== true;
    },
    async answered(ms) {
      const over = new AbortController();
      const late = clock.sleep(ms, AbortSignal.any([over.signal, closed.signal])).then(() => false);
      return Promise.race([answered, late]).finally(() => over.abort());
    },
    async run(signal) {
      let failed = 0;
      try {
        while (!signal.aborted) {
          clients ??= open();
          const ok = await probing();
          failed = ok ? 0 : failed + 1;
          if (failed === renewAfterProbes) {
            failed = 0;
            clients.close(); // K3
            clients = undefined;
          }
          const pause = ok || breaker.isOpen() ? probeEveryMs * (0.9 + 0.2 * Math.random()) : probeAgainMs;
          await clock.sleep(pause, signal);
        }
      } finally {
        closed.abort();
        clients?.close();
        clients = undefined;
      }
    },
  };

  const breaker = createBreaker((open) => {
    if (open) log.warn({}, "Redis is away: hints go through the database");
    else log.info({}, "Redis answers");
    link.on.away(open);
    if (open) return;
    firstAnswer();
    link.on.gap();
  });

  function open(): RedisClients {
    let complaint = "";
    return openClients(ports.address, ports.credentials, {
      channels: [own, channelOf(everyone)],
      message(channel, text) {
        if (channel === own && text === probe?.nonce) probe.heard();
        else if (!text.startsWith(probePrefix)) link.on.message(text);
      },
      listening() {
        if (!breaker.isOpen()) link.on.gap();
      },
      error(error) {
        if (error.message === complaint) return; // each dial has the same to say
        complaint = error.message;
        log.warn({ detail: complaint }, "Redis: connection failed; dialled again");
      },
    });
  }

  /** K2. Also keeps this replica's own key, whose loss tells that everything else is lost too. */
  async function probing(): Promise<boolean> {
    const nonce = `${probePrefix}${Math.random()}`;
    const heard = new Promise<void>((resolve) => (probe = { nonce, heard: resolve }));
    try {
      const [before] = await timed(
        "probe",
        (redis) =>
          Promise.all([
            redis.set(key("replica", replicaId), new Date().toISOString(), "PX", replicaTtlMs, "GET"),
            redis.publish(own, nonce),
            heard,
          ]),
        true,
      );
      if (before === null && stored) link.on.gap();
      stored = true;
      return true;
    } catch {
      return false; // counted, and told when the breaker opens
    } finally {
      probe = undefined;
    }
  }

  async function timed<T>(name: string, command: (redis: RedisCommands) => Promise<T>, isProbe: boolean): Promise<T> {
    const startedAt = clock.monotonicMs();
    const over = new AbortController();
    let ok = false;
    try {
      if (clients === undefined) throw new Error("Redis is not dialled");
      // A cluster's client retries by itself for longer than anybody waits (K1).
      const answer = await Promise.race([
        command(clients.commands),
        clock.sleep(commandTimeoutMs, over.signal).then(() => {
          throw new Error(`Redis gave no answer within ${commandTimeoutMs} ms`);
        }),
      ]);
      ok = true;
      breaker.succeeded({ probe: isProbe });
      return answer;
    } catch (error) {
      breaker.failed();
      throw error;
    } finally {
      over.abort();
      ports.observe(name, (clock.monotonicMs() - startedAt) / 1000, ok);
    }
  }

  return link;
}

const probePrefix = "probe ";
