/**
 * What a roll-out needs to know of a runtime's instances: processes,
 * containers, whatever runs.
 *
 *   plan.ts, rollout.ts, converge.ts   work on these    agents/<kind>   has them
 */
import type { Deployment, Workload } from "@bowline/contract/deployments";
import type { ExecOutput } from "../runtime.ts";
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
  /** What somebody changed of it by hand; not empty: another one takes its place. Unset: nobody can. */
  altered?(): string;
  /** Runs it if it doesn't run; what has ended for good stays so, if it ended well or is a job. */
  start(): Promise<void>;
  /** Freezes it where it runs; else it stays as it is and does not start again. */
  pause(): Promise<void>;
  /** Ends it and everything that it started. */
  stop(): Promise<void>;
  /** Belongs to a new generation that doesn't change it. */
  enter(generation: number): Promise<void>;
}

/** A spec's forward with its number on the host, as the record keeps it. */
export interface StoredForward {
  name: string;
  protocol: "tcp" | "udp";
  address: string;
  published: number;
  /** Chosen here, not named by the spec. */
  dynamic: boolean;
  drainMs: number;
  /** `port`: name or number; weights are 1 or more. */
  backends: { workload: string; port: string; weight: number }[];
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
  /** Ports that are passed on, with their numbers. Unset: none. */
  forwards?: StoredForward[];
  /** What its gates could not tell, of this generation. */
  inconclusive?: string;
}

/** The ports of an observed instance. */
type ShownPort = { name: string; container: number; address: string; published: number };

export interface Forwards<M extends Member> {
  /** A spec's forwards with their numbers. Throws PORT_TAKEN. */
  assign(spec: Pick<Deployment, "forwards">): Promise<StoredForward[]>;
  /** W1: the same forwards lead to these instances from now on. */
  stage(slots: readonly string[]): Promise<void>;
  /** W1: all of them, or none: throws PORT_TAKEN, and everything is as before. */
  take(forwards: StoredForward[], slots: readonly string[]): Promise<void>;
  /** W1: what the record says. */
  settle(): Promise<void>;
  /** W3: resolves when no connection to these is open any more, or their drain is over, or `signal` aborts. */
  drain(slots: readonly string[], signal: AbortSignal): Promise<void>;
  /** Closes all ports, drains, and ends the process, if `signal` does not abort before. */
  close(signal: AbortSignal): Promise<void>;
  /** Leaves nothing. */
  erase(): Promise<void>;
  /** Finds what an earlier agent left, and goes on with what the record says. */
  resume(): void;
  /** The ports of an instance as users reach them: a forward's instead of its own. */
  shown(member: M, ports: readonly ShownPort[]): ShownPort[];
  /** Why something of an instance cannot be reached now; empty: nothing is wrong. */
  problem(member: M): string;
  /** Looks after it no longer; what runs goes on. */
  letGo(): Promise<void>;
  /** The agent takes everything along; the next one starts it again. */
  suspend(): Promise<void>;
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
  /** Whether it is what a converge waits for. */
  readiness(member: M): Readiness;
  /** Why one that runs is not there yet, with the last lines that it wrote, for people; empty where it does not run. */
  whyNotYet(member: M): Promise<string>;
  /** The ports of the host that lead to its instances. */
  readonly forwards: Forwards<M>;
  /** Where this host reaches a port (name or number) of an instance itself; undefined while it cannot. */
  reach(member: M, port: string): { host: string; port: number } | undefined;
  /** Runs a command inside an instance until it ends or `signal` aborts; as Runtime.exec. */
  exec(member: M, command: readonly string[], signal: AbortSignal): AsyncIterable<ExecOutput>;
}

export function newRecord(id: string, generation: number): DeploymentRecord {
  return { id, generation, settled: false, desired: "RUNNING", current: [], levels: [], volumes: {}, labels: {} };
}
