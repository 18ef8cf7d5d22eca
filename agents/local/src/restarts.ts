/**
 * Whether an instance that has ended starts again, and after which wait.
 *
 *   instances.ts  asks after every end
 */
import { RestartPolicy } from "@bowline/contract/deployments";
import type { Workload } from "@bowline/contract/deployments";
import type { Exit } from "./launch.ts";
import type { Times } from "./times.ts";

export interface Decision {
  /** True: it is not started again. */
  done: boolean;
  /** Ends in a row that count, this one included; a job's failed runs. */
  failures: number;
  /** Before the next start, in ms. */
  waitMs: number;
}

/** More doublings than any bound allows; keeps the power finite. */
const maxDoublings = 30;

/**
 * `failures` are those before this end. A job counts them all; any other
 * instance forgets them after a run of `stableAfterMs`. An end without a known
 * exit code is a failure.
 */
export function decide(workload: Workload, exit: Exit, failures: number, times: Times): Decision {
  const failed = exit.code !== 0;
  const job = workload.runToCompletion;
  const forgets = job === undefined && (exit.ranMs ?? 0) >= times.stableAfterMs;
  const counted = (forgets ? 0 : failures) + 1;
  const waitMs = Math.min(times.backoffMaxMs, times.backoffFirstMs * 2 ** Math.min(counted - 1, maxDoublings));
  if (job !== undefined) return { done: !failed || counted > job.retries, failures: counted, waitMs };
  switch (workload.restartPolicy) {
    case RestartPolicy.NEVER:
      return { done: true, failures: counted, waitMs };
    case RestartPolicy.ON_FAILURE:
      return { done: !failed, failures: counted, waitMs };
    default:
      return { done: false, failures: counted, waitMs }; // ALWAYS, and whatever a newer server may say
  }
}
