/**
 * What an instance is and what is kept of it.
 *
 *   instances.ts  moves from phase to phase    readiness.ts  reads them
 */
import type { InstanceHealth } from "@bowline/agent-core";
import type { Exit, LiveRun } from "./launch.ts";

/** What is kept of an instance beside its definition; state.json in its slot. */
export interface InstanceState {
  wish: "run" | "pause" | "stop";
  /** That it belongs to: the one that made it, or a later one that didn't change it. */
  generation: number;
  /** Starts after the first, in that generation. */
  restarts: number;
  /** Ends in a row that count for the wait before the next start; for a job its failed runs. */
  failures: number;
  /** True: it ended and is not started again. */
  done: boolean;
  /** How its last run ended. */
  exit?: Exit;
}

export type Phase =
  | { kind: "idle" }
  | { kind: "starting" }
  | { kind: "running"; live: LiveRun; health: InstanceHealth; reason: string; settled: boolean }
  | { kind: "paused"; live: LiveRun }
  | { kind: "stopping"; live: LiveRun }
  | { kind: "backing-off"; exit: Exit; untilMs: number; wake: AbortController }
  | { kind: "exited"; exit: Exit };
