/** The bounds that every step has: a time, and the caller's signal. */
import { DialError, type DialReason, type DialStep } from "./reasons.ts";

export interface Settle<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

/** Runs one step: rejects when its time is over or the signal aborts, and then drops what it had begun. */
export function bounded<T>(
  limits: { step: DialStep; reason: DialReason; what: string; within: number; signal: AbortSignal | undefined },
  start: (settle: Settle<T>) => () => void,
): Promise<T> {
  const { step, reason, what, within, signal } = limits;
  return new Promise<T>((resolve, reject) => {
    let drop: (() => void) | undefined;
    let open = true;
    const over = (): boolean => {
      if (!open) return false;
      open = false;
      clearTimeout(timer);
      signal?.removeEventListener("abort", aborted);
      return true;
    };
    const fail = (error: Error): void => {
      if (!over()) return;
      drop?.();
      reject(error);
    };
    const aborted = (): void => fail(signal?.reason as Error);
    const timer = setTimeout(
      () => fail(new DialError(step, reason, `${what} within ${Math.round(within / 100) / 10} s`)),
      within,
    );
    signal?.addEventListener("abort", aborted, { once: true });
    drop = start({ resolve: (value) => over() && resolve(value), reject: fail });
    if (!open) drop(); // it failed before it could be dropped
  });
}
