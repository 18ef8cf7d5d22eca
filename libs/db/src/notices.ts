/**
 * NOTIFY and LISTEN on a connection of its own: what replicas tell one another
 * where there is no Redis.
 *
 * N1: never within a transaction that does something else: NOTIFY takes a lock
 *     that all commits of the database wait for (measured: 7.6–9.3k commits a
 *     second fall to 1.0–1.6k). One connection, one statement for all that
 *     gathered, at most one per `notifyEveryMs`.
 * N2: a notice may get lost (this connection breaks, or was never there);
 *     `gap` tells that it may have been so.
 */
import pg from "pg";
import type { DatabaseAddress } from "./pool.ts";

export interface NoticesSettings {
  address: DatabaseAddress;
  applicationName: string;
  channels: readonly string[];
  heard(payload: string): void;
  /** Listening from now on; before, something may have been missed. */
  gap(): void;
  log: { warn(fields: object, message: string): void };
}

export interface Notices {
  /** Sends with the next statement. False: it can't be (no connection, or too many wait). */
  send(channel: string, payload: string): boolean;
  listening(): boolean;
  /** Connects and reconnects until `signal` aborts. */
  run(signal: AbortSignal): Promise<void>;
}

/** Of PostgreSQL: a longer payload is an error. */
export const maxNoticeBytes = 7_999;
/** At most one NOTIFY per so many ms and replica (N1); people don't notice. */
const notifyEveryMs = 20;
/** Payloads of one statement: some MB at most. */
const maxPerStatement = 200;
/** What waits beyond this is not sent: the receivers' polls find it. */
const maxWaiting = 5_000;
/** Between attempts to connect. */
const reconnectMinMs = 250;
const reconnectMaxMs = 5_000;
const connectTimeoutMs = 5_000;
/** A statement that takes longer, on a connection that may be dead. */
const statementTimeoutMs = 5_000;
/** For the goodbye of a connection. */
const goodbyeMs = 1_000;
/** Looks whether the connection lives: a peer may vanish without a word. */
const lookEveryMs = 10_000;

export function createNotices(settings: NoticesSettings): Notices {
  const waiting: { channel: string; payload: string }[] = [];
  let wake: () => void = () => undefined;
  let connected = false;

  function pause(ms: number, signal: AbortSignal, wakeable: boolean): Promise<void> {
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", end);
        wake = () => undefined;
        resolve();
      };
      const timer = setTimeout(end, ms);
      signal.addEventListener("abort", end, { once: true });
      if (wakeable) wake = end;
    });
  }

  /** One connection, until it breaks (then throws) or `signal` aborts. */
  async function connection(signal: AbortSignal): Promise<void> {
    const { address } = settings;
    const client = new pg.Client({
      ...(typeof address === "string" ? { connectionString: address } : address),
      application_name: settings.applicationName,
      connectionTimeoutMillis: connectTimeoutMs,
      query_timeout: statementTimeoutMs,
      keepAlive: true,
    });
    let broken: Error | undefined;
    client.on("error", (error) => {
      broken = error;
      wake();
    });
    client.on("end", () => {
      broken ??= new Error("the connection ended");
      wake();
    });
    client.on("notification", ({ payload }) => settings.heard(payload ?? ""));
    try {
      await client.connect();
      for (const channel of settings.channels) await client.query(`LISTEN ${pg.escapeIdentifier(channel)}`);
      connected = true;
      settings.gap(); // N2
      while (!signal.aborted) {
        if (broken !== undefined) throw broken;
        const set = waiting.splice(0, maxPerStatement);
        if (set.length > 0) {
          await client.query("SELECT pg_notify(c, p) FROM unnest($1::text[], $2::text[]) AS n (c, p)", [
            set.map(({ channel }) => channel),
            set.map(({ payload }) => payload),
          ]);
          await pause(notifyEveryMs, signal, false); // N1
        } else {
          const startedAt = performance.now();
          await pause(lookEveryMs, signal, true);
          if (waiting.length === 0 && performance.now() - startedAt >= lookEveryMs) await client.query("SELECT 1");
        }
      }
    } finally {
      connected = false;
      waiting.length = 0; // whoever waits for these has found them by its poll before we are back
      // It may be broken already, or its server too slow to say goodbye.
      await Promise.race([client.end().catch(() => undefined), pause(goodbyeMs, new AbortController().signal, false)]);
    }
  }

  return {
    send(channel, payload) {
      if (!connected || waiting.length >= maxWaiting) return false;
      if (Buffer.byteLength(payload) > maxNoticeBytes) return false;
      waiting.push({ channel, payload });
      wake();
      return true;
    },
    listening: () => connected,
    async run(signal) {
      let delayMs = reconnectMinMs;
      while (!signal.aborted) {
        const startedAt = performance.now();
        try {
          await connection(signal);
        } catch (error) {
          if (signal.aborted) return;
          const detail = error instanceof Error ? error.message : String(error);
          settings.log.warn({ detail }, "the connection for notices was lost; made anew");
        }
        const lasted = performance.now() - startedAt > reconnectMaxMs + connectTimeoutMs;
        delayMs = lasted ? reconnectMinMs : Math.min(reconnectMaxMs, delayMs * 2);
        await pause(delayMs * (0.5 + Math.random() / 2), signal, false);
      }
    },
  };
}
