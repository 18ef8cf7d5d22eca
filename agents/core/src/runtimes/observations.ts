/**
 * Tells watchers what changed: each gets the newest observation of a deployment
 * whenever that differs from the last it got.
 */
import type { ObservedDeployment } from "../runtime.ts";

/** Changes within this time are one: a start alone makes three. */
const coalesceMs = 20;

export interface Observations {
  /** Something of this deployment may have changed. */
  changed(deploymentId: string): void;
  watch(changed: (observed: ObservedDeployment) => void, signal: AbortSignal): Promise<void>;
  close(): void;
}

export function createObservations(held: ReadonlyMap<string, { observe(): ObservedDeployment }>): Observations {
  const watchers = new Set<(deploymentId: string) => void>();
  const pending = new Set<string>();
  let timer: NodeJS.Timeout | undefined;

  function flush(): void {
    timer = undefined;
    const ids = [...pending];
    pending.clear();
    for (const id of ids) for (const watcher of [...watchers]) watcher(id);
  }

  return {
    changed(deploymentId) {
      if (watchers.size === 0) return;
      pending.add(deploymentId);
      timer ??= setTimeout(flush, coalesceMs);
    },
    watch(changed, signal) {
      const last = new Map<string, string>();
      const look = (id: string): void => {
        const observed = held.get(id)?.observe() ?? { deploymentId: id, generation: 0, instances: [], absent: true };
        const text = JSON.stringify(observed);
        if (last.get(id) === text) return;
        if (observed.absent) last.delete(id);
        else last.set(id, text);
        changed(observed);
      };
      return new Promise((resolve) => {
        const end = (): void => {
          watchers.delete(look);
          resolve();
        };
        if (signal.aborted) return end();
        watchers.add(look);
        signal.addEventListener("abort", end, { once: true });
        for (const id of held.keys()) look(id);
      });
    },
    close() {
      clearTimeout(timer);
    },
  };
}
