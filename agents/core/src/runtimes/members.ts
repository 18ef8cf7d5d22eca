/**
 * What a roll-out needs to know of a runtime's instances: processes,
 * containers, whatever runs.
 *
 *   plan.ts, rollout.ts, converge.ts   work on these    agents/<kind>   has them
 */
import type { Deployment, Workload } from "@bowline/contract/deployments";
import type { AssignedPort } from "./ports.ts";
import type { Refusal } from "./refusal.ts";

/** Expected answers, not errors. */
export type Readiness = { kind: "ready" } | { kind: "waiting" } | { kind: "failed"; refusal: Refusal };

/** One instance in one definition. */
export interface Member {
  readonly definition: {
    /** Names it in its deployment's record. */
    readonly slot: string;
    /** 0-based. */
    readonly index: number;
    readonly digest: string;
    readonly ports: readonly AssignedPort[];
  };
  readonly workload: Workload;
  /** The generation that it belongs to: the one that made it, or a later one that didn't change it. */
  readonly state: { readonly generation: number };
  phase():
    | { kind: "idle" | "starting" | "running" | "paused" | "stopping" | "backing-off" }
    | { kind: "exited"; exit: { code?: number } };
  /** Runs it if it doesn't run; what has ended for good stays so, if it ended well or is a job. */
  start(): Promise<void>;
  /** Freezes it where it runs; else it stays as it is and does not start again. */
  pause(): Promise<void>;
  /** Ends it and everything that it started. */
  stop(): Promise<void>;
  /** Belongs to a new generation that doesn't change it. */
  enter(generation: number): Promise<void>;
}

export interface DeploymentRecord {
  id: string;
  /** Of the last good generation; before the first, the one that is tried. */
  generation: number;
  /** False until a generation has succeeded. */
  settled: boolean;
  desired: "RUNNING" | "STOPPED" | "PAUSED" | "ABSENT";
  /** Slots of the last good generation; any other slot is a candidate of an attempt that has not succeeded. */
  current: string[];
  /** Names of workloads, each level after those that it depends on. */
  levels: string[][];
  /** Whether a volume stays when its deployment goes, by name. */
  volumes: Record<string, boolean>;
  labels: Record<string, string>;
}

/** All instances of one deployment, and what is stored about it. */
export interface Held<M extends Member> {
  readonly record: DeploymentRecord;
  readonly slots: ReadonlyMap<string, M>;
  saveRecord(change: Partial<DeploymentRecord>): Promise<void>;
  isCurrent(member: M): boolean;
  /** Makes a slot; its instance does not run yet. `inherited`: ports whose free numbers it takes over. */
  addSlot(
    spec: Deployment,
    workload: Workload,
    index: number,
    digest: string,
    inherited: readonly AssignedPort[],
  ): Promise<M>;
  /** Stops the instance and removes all of its slot. */
  removeSlot(member: M): Promise<void>;
  /** Removes what is stored, once no slot is left. */
  erase(): Promise<void>;
  /** Calls `listener` after every change of an instance; returns how to stop that. */
  onChange(listener: () => void): () => void;
  /** The instance that answers for one member of a workload. */
  find(workload: string, index: number): M | undefined;
  /** Whether it is what a converge waits for. */
  readiness(member: M): Readiness;
}

export function newRecord(id: string, generation: number): DeploymentRecord {
  return { id, generation, settled: false, desired: "RUNNING", current: [], levels: [], volumes: {}, labels: {} };
}
