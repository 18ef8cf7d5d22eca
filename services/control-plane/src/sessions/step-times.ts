/**
 * How long commands take from step to step within one session. In memory: what
 * began in an earlier session is not timed.
 *
 * P1: only what this replica pushed is remembered, so an agent cannot make it
 *     grow; and no more than `maxTimed`.
 */
import type { Metrics } from "../platform/metrics.ts";

export interface StepTimes {
  /** A command went out, for the first time or again. */
  pushed(commandId: string): void;
  receipted(commandId: string): void;
  /** Its result came. Call what is returned when that is recorded. */
  reported(commandId: string): () => void;
}

/** A window's worth many times over: results of what went RESEND elsewhere leave their entry behind. */
const maxTimed = 256;

export function createStepTimes(metrics: Pick<Metrics, "step"> | undefined, now = () => performance.now()): StepTimes {
  return new SessionTimes(metrics, now);
}

class SessionTimes implements StepTimes {
  readonly #metrics: Pick<Metrics, "step"> | undefined;
  readonly #now: () => number;
  /** Made for the first command: most agents are idle. */
  #pushedAt: Map<string, number> | undefined;
  #receiptedAt: Map<string, number> | undefined;

  constructor(metrics: Pick<Metrics, "step"> | undefined, now: () => number) {
    this.#metrics = metrics;
    this.#now = now;
  }

  pushed(commandId: string): void {
    this.#pushedAt ??= new Map();
    if (!this.#pushedAt.has(commandId)) this.#put(this.#pushedAt, commandId); // P1
  }

  receipted(commandId: string): void {
    if (!this.#take(this.#pushedAt, commandId, "push_to_receipt")) return;
    this.#receiptedAt ??= new Map();
    this.#put(this.#receiptedAt, commandId);
  }

  reported(commandId: string): () => void {
    const known = this.#take(this.#receiptedAt, commandId, "receipt_to_result");
    const at = this.#now();
    return () => {
      if (known) this.#metrics?.step("result_to_recorded", (this.#now() - at) / 1000);
    };
  }

  #put(map: Map<string, number>, commandId: string): void {
    if (map.size >= maxTimed) map.delete(map.keys().next().value ?? "");
    map.set(commandId, this.#now());
  }

  #take(map: Map<string, number> | undefined, commandId: string, step: Parameters<Metrics["step"]>[0]): boolean {
    const at = map?.get(commandId);
    if (map === undefined || at === undefined) return false;
    map.delete(commandId);
    this.#metrics?.step(step, (this.#now() - at) / 1000);
    return true;
  }
}
