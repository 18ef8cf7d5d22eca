/**
 * What a rollout does next in the phase that it is in. Pure: from where its
 * targets stand, and the time. phases.ts says what follows a phase.
 *
 * S1: at most `maxParallel` reachable agents change at one time; one that is
 *     away holds no place, and gets its command when all others are done with
 *     the last phase.
 * S2: nothing goes before what comes is done: agents that lose everything are
 *     last.
 * S3: a target counts as done once it was healthy for `minHealthyMs`.
 * S4: a failure ends it at once: nothing begins after one.
 * S5: nothing goes on from what a gate could not tell of.
 */
export interface StepTarget {
  agentId: string;
  /** Its newest generation is what this phase wants there. */
  current: boolean;
  /** It is to have nothing any more. */
  leaves: boolean;
  state: "WAITING" | "PENDING" | "APPLYING" | "DONE" | "TARGET_FAILED" | "REMOVING";
  /** Its agent can be counted on now (rollout-rows.ts). */
  online: boolean;
  /** Undefined: not done, or not healthy. */
  healthySince: Date | undefined;
  /** When the present generation was enqueued, or its agent came back since. */
  begunAt: Date;
  /** This phase changes nothing there. */
  untouched: boolean;
  /** A gate could not tell whether it works. */
  inconclusive: boolean;
}

export interface StepRollout {
  paused: boolean;
  /** Another phase follows: agents that are away wait for the last one. */
  more: boolean;
  maxParallel: number;
  minHealthyMs: number;
  /** Infinity: none. */
  healthyDeadlineMs: number;
  progressDeadlineMs: number;
  /** When it began, an instance became healthy, an agent done, a phase began, or it was resumed. */
  progressAt: Date;
}

export type RolloutEnd =
  | { state: "DONE" }
  | { state: "PAUSED"; reason: "GATE_INCONCLUSIVE"; agentId: string }
  | {
      state: "FAILED";
      reason: "PROGRESS_DEADLINE" | "HEALTHY_DEADLINE" | "TARGET_FAILED";
      agentId: string | undefined;
    };

export interface Steps {
  /** Agents that get their part now. */
  begin: string[];
  /** Agents that have it, of those that are to. */
  done: number;
  /** How the phase ended; undefined: it goes on. */
  end: RolloutEnd | undefined;
  /** When to look again though nothing happens; undefined: not before something does. */
  lookAt: Date | undefined;
}

export function nextSteps(rollout: StepRollout, targets: readonly StepTarget[], now: Date): Steps {
  const healthyAt = (target: StepTarget): number =>
    target.untouched ? 0 : (target.healthySince?.getTime() ?? Infinity) + rollout.minHealthyMs;
  const isDone = (target: StepTarget): boolean =>
    target.current && target.state === "DONE" && healthyAt(target) <= now.getTime(); // S3
  const done = targets.filter((target) => !target.leaves && isDone(target)).length;
  const stop = (end: RolloutEnd): Steps => ({ begin: [], done, end, lookAt: undefined });
  const failed = targets.find((target) => target.current && target.state === "TARGET_FAILED");
  if (failed !== undefined) return stop({ state: "FAILED", reason: "TARGET_FAILED", agentId: failed.agentId }); // S4
  if (rollout.paused) return { begin: [], done, end: undefined, lookAt: undefined };
  const unclear = targets.find((target) => target.current && target.inconclusive);
  if (unclear !== undefined) return stop({ state: "PAUSED", reason: "GATE_INCONCLUSIVE", agentId: unclear.agentId }); // S5

  const leaving = targets.filter((target) => target.leaves);
  const staying = targets.filter((target) => !target.leaves);
  const reachable = staying.filter((target) => target.online);
  const underWay = reachable.filter((target) => target.current && !isDone(target));
  const waiting = reachable.filter((target) => !target.current);
  if (underWay.length === 0 && waiting.length === 0) {
    // S1, S2: what is left is away, or goes.
    const left = rollout.more ? [] : [...staying, ...leaving].filter((target) => !target.current);
    return { begin: left.map((target) => target.agentId), done, end: { state: "DONE" }, lookAt: undefined };
  }
  const isLate = (deadline: number): boolean => deadline <= now.getTime();
  const unhealthy = underWay.filter((target) => target.healthySince === undefined);
  const healthyBy = (target: StepTarget): number => target.begunAt.getTime() + rollout.healthyDeadlineMs;
  const late = unhealthy.find((target) => isLate(healthyBy(target)));
  if (late !== undefined) return stop({ state: "FAILED", reason: "HEALTHY_DEADLINE", agentId: late.agentId });
  const deadline = rollout.progressAt.getTime() + rollout.progressDeadlineMs;
  if (isLate(deadline)) return stop({ state: "FAILED", reason: "PROGRESS_DEADLINE", agentId: underWay[0]?.agentId });
  const room = Math.max(0, rollout.maxParallel - underWay.length); // S1
  const ripe = underWay.filter((target) => target.state === "DONE").map(healthyAt);
  return {
    begin: waiting.slice(0, room).map((target) => target.agentId),
    done,
    end: undefined,
    lookAt: new Date(Math.min(deadline, ...unhealthy.map(healthyBy), ...ripe)),
  };
}
