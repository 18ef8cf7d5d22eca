/**
 * What is said to an agent that polls, until it says that it has it.
 *
 * M1: a message is kept, and answered again, until a poll's cursor is behind it:
 *     an answer that a network loses costs time and no message.
 * M2: one poll waits at a time; a newer one takes its place.
 * M3: an agent that does not fetch what is kept is bounded: above the limit
 *     nothing more is taken.
 */
import { create } from "@bufbuild/protobuf";
import { type ServerMessage, ServerMessageSchema } from "@bowline/contract/agent";
import { type Clock, newId, problem } from "@bowline/kernel";
import { maxQueuedMessages } from "@bowline/session";
import type { Outgoing } from "./live.ts";

/** Messages in one answer: with 64 KiB each, within what a client reads at once. */
const maxAnswered = 100;

export interface Mailbox {
  /** False where the agent has left too much (M3); nothing is kept then. */
  put(message: Outgoing): boolean;
  /** Waits for what follows `cursor`. Throws POLL_OUTDATED where a newer poll came (M2). */
  after(cursor: string, waitMs: number, signal: AbortSignal): Promise<{ messages: ServerMessage[]; cursor: string }>;
  /** Who waits gets what is kept, or nothing, at once; so does who comes later. */
  close(): void;
  readonly length: number;
}

export function createMailbox(clock: Clock): Mailbox {
  // Another mailbox's cursor says nothing about what is in this one.
  const id = newId("mailbox");
  let kept: { sequence: number; message: ServerMessage }[] = [];
  let last = 0;
  let closed = false;
  let wake: (() => void) | undefined;
  let replaced: (() => void) | undefined;

  function forget(cursor: string): void {
    const [mailbox, sequence = ""] = cursor.split(".");
    if (mailbox === id) kept = kept.filter((entry) => entry.sequence > Number(sequence));
  }

  return {
    put(message) {
      if (kept.length >= maxQueuedMessages) return false;
      last += 1;
      kept.push({ sequence: last, message: create(ServerMessageSchema, message) });
      wake?.();
      return true;
    },
    async after(cursor, waitMs, signal) {
      replaced?.();
      forget(cursor);
      if (kept.length === 0 && !closed && waitMs > 0 && !signal.aborted) {
        const over = new AbortController();
        const newer = await new Promise<boolean>((resolve) => {
          wake = () => resolve(false);
          replaced = () => resolve(true);
          void clock.sleep(waitMs, AbortSignal.any([signal, over.signal])).then(() => resolve(false));
        });
        over.abort();
        if (newer) throw problem("POLL_OUTDATED", "A newer poll took the place of this one."); // its own wake stands
        wake = undefined;
        replaced = undefined;
      }
      const answered = kept.slice(0, maxAnswered);
      return {
        messages: answered.map(({ message }) => message),
        cursor: `${id}.${answered.at(-1)?.sequence ?? last}`,
      };
    },
    close() {
      closed = true;
      wake?.();
    },
    get length() {
      return kept.length;
    },
  };
}
