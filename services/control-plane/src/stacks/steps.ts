/**
 * What a rollout does next. Pure: from where its targets stand, and the time.
 *
 * S1: at most `maxParallel` reachable agents change at one time; one that is
 *     away holds no place, and gets its command when all others are done.
 * S2: nothing goes before what comes is done: agents that lose everything are
 *     last.
 * S3: a target counts as done once it was healthy for `minHealthyMs`.
 * S4: a failure ends it at once: nothing begins after one.
 */
export interface StepTarget {
  agentId: string;
  /** Its newest generation is what this rollout wants there. */
  current: boolean;
  /** It is to have nothing any more. */
  leaves: boolean;
  state: "WAITING" | "PENDING" | "APPLYING" | "DONE" | "TARGET_FAILED" | "REMOVING";
  /** Its agent is served now. */
  online: boolean;
  /** Undefined: not done, or not healthy. */
  healthySince: Date | undefined;
  /** This rollout changes nothing there. */
  untouched: boolean;
}

export interface StepRollout {
  paused: boolean;
  maxParallel: number;
  minHealthyMs: number;
  progressDeadlineMs: number;
  /** When it began, an agent became done, or it was resumed. */
  progressAt: Date;
}

export type RolloutEnd =
  | { state: "SUCCEEDED" }
  | { state: "FAILED"; reason: "PROGRESS_DEADLINE" | "TARGET_FAILED"; agentId: string | undefined };

export interface Steps {
  /** Agents that get their part now. */
  begin: string[];
  /** Agents that have it. */
  done: number;
  /** Undefined: it goes on. */
  end: RolloutEnd | undefined;
  /** When to look again though nothing happens; undefined: not before something does. */
  lookAt: Date | undefined;
}

export function nextSteps(rollout: StepRollout, targets: readonly StepTarget[], now: Date): Steps {
  const healthyAt = (target: StepTarget): number =>
    target.untouched ? 0 : (target.healthySince?.getTime() ?? Infinity) + rollout.minHealthyMs;
  const isDone = (target: StepTarget): boolean =>
    target.current && target.state === "DONE" && healthyAt(target) <= now.getTime(); // S3
  const done = targets.filter(isDone).length;
  const failed = targets.find((target) => target.current && target.state === "TARGET_FAILED");
  if (failed !== undefined) {
    const end = { state: "FAILED", reason: "TARGET_FAILED", agentId: failed.agentId } as const;
    return { begin: [], done, end, lookAt: undefined }; // S4
  }
  if (rollout.paused) return { begin: [], done, end: undefined, lookAt: undefined };

  const leaving = targets.filter((target) => target.leaves);
  const staying = targets.filter((target) => !target.leaves);
  const reachable = staying.filter((target) => target.online);
  const underWay = reachable.filter((target) => target.current && !isDone(target));
  const waiting = reachable.filter((target) => !target.current);
  if (underWay.length === 0 && waiting.length === 0) {
    // S1, S2: what is left is away, or goes.
    const begin = [...staying, ...leaving].filter((target) => !target.current).map((target) => target.agentId);
    return { begin, done, end: { state: "SUCCEEDED" }, lookAt: undefined };
  }
  const deadline = rollout.progressAt.getTime() + rollout.progressDeadlineMs;
  if (deadline <= now.getTime()) {
    const end = { state: "FAILED", reason: "PROGRESS_DEADLINE", agentId: underWay[0]?.agentId } as const;
    return { begin: [], done, end, lookAt: undefined };
  }
  const room = Math.max(0, rollout.maxParallel - underWay.length); // S1
  const times = [deadline, ...underWay.filter((target) => target.state === "DONE").map(healthyAt)];
  return {
    begin: waiting.slice(0, room).map((target) => target.agentId),
    done,
    end: undefined,
    lookAt: new Date(Math.min(...times)),
  };
}
