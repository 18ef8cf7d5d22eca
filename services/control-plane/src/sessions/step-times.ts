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
  const pushedAt = new Map<string, number>();
  const receiptedAt = new Map<string, number>();
  const put = (map: Map<string, number>, commandId: string): void => {
    if (map.size >= maxTimed) map.delete(map.keys().next().value ?? "");
    map.set(commandId, now());
  };
  const take = (map: Map<string, number>, commandId: string, step: Parameters<Metrics["step"]>[0]): boolean => {
    const at = map.get(commandId);
    if (at === undefined) return false;
    map.delete(commandId);
    metrics?.step(step, (now() - at) / 1000);
    return true;
  };
  return {
    pushed: (commandId) => {
      if (!pushedAt.has(commandId)) put(pushedAt, commandId); // P1
    },
    receipted: (commandId) => {
      if (take(pushedAt, commandId, "push_to_receipt")) put(receiptedAt, commandId);
    },
    reported: (commandId) => {
      const known = take(receiptedAt, commandId, "receipt_to_result");
      const at = now();
      return () => {
        if (known) metrics?.step("result_to_recorded", (now() - at) / 1000);
      };
    },
  };
}
