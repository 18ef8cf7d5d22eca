/**
 * Watching: a server stream that goes on from its cursor when the connection
 * is lost.
 *
 * W1: nothing is skipped: after a loss it goes on where the last event was.
 * W2: what the server no longer keeps is replaced by a snapshot, and the reader
 *     is told (`anew`): what a snapshot does not show, it has to ask for.
 */
import { systemClock, fullJitter } from "@bowline/kernel";
import type { CallOptions } from "@connectrpc/connect";
import type { Cli } from "./cli.ts";
import { apiError } from "./errors.ts";

/** Tries in a row without an event before it is given up: about a minute. */
const maxTries = 10;
const backoff = { baseMs: 500, capMs: 10_000, floorMs: 250 };
/** A watch has no time limit of its own; heartbeats of the stream keep it. */
const unlimited = 0;

/**
 * The events of a watch until `signal` aborts (then it ends, without an
 * error). Throws what the server refuses, and what stays unreachable.
 */
export async function* follow<E extends { cursor: string }>(
  cli: Cli,
  open: (cursor: string, options: CallOptions) => AsyncIterable<E>,
  signal: AbortSignal,
  anew: () => void = () => {},
): AsyncGenerator<E> {
  let cursor = "";
  for (let tries = 0; ;) {
    // Ends the call where the reader leaves the loop: a `break` alone would not cancel it.
    const call = new AbortController();
    try {
      for await (const event of open(cursor, {
        signal: AbortSignal.any([signal, call.signal]),
        timeoutMs: unlimited,
      })) {
        tries = 0;
        if (event.cursor !== "") cursor = event.cursor;
        yield event;
        if (signal.aborted) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      const { reason, code } = apiError(error) ?? { reason: "", code: "" };
      if (reason === "CURSOR_EXPIRED" && cursor !== "") {
        cursor = "";
        anew(); // W2
        cli.note("What changed meanwhile is no longer kept by the server; it goes on from how things are now.");
      } else {
        const passing = code === "unavailable" || (reason === "" && ["unknown", "internal", "aborted"].includes(code));
        if (!passing || tries >= maxTries - 1) throw error;
      }
    } finally {
      call.abort();
    }
    if (signal.aborted) return;
    tries += 1;
    if (tries === 2) cli.note("The connection to the server is lost; trying again.");
    await systemClock.sleep(fullJitter(backoff, tries, Math.random), signal);
    if (signal.aborted) return;
  }
}

/** `limit` aborts after `--timeout`; `signal` then and on Ctrl-C. Undefined: only Ctrl-C ends it. */
export function timeLimit(cli: Cli, timeoutMs: number | undefined): { limit: AbortSignal; signal: AbortSignal } {
  const limit = timeoutMs === undefined ? new AbortController().signal : AbortSignal.timeout(timeoutMs);
  return { limit, signal: AbortSignal.any([limit, cli.interrupted]) };
}
