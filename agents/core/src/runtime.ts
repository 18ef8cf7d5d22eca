/**
 * The runtime port: the only thing that a new kind of place implements.
 *
 *   runtime.ts    this port                     dataplane.ts  the port of a gateway class
 *   converge.ts   runs commands through both    connect.ts    the stream
 *
 * R1: a runtime adopts by deployment and generation, never by attempt: to
 *     converge the same spec twice is to converge it once.
 * R2: it removes only what an ABSENT spec or a newer generation of the same
 *     deployment names; what it doesn't know it leaves alone.
 * R3: a failed update leaves the last good generation running, where the two
 *     can run side by side, and says in its reason where they cannot.
 */
import type { ForeignContainer } from "@bowline/contract/agents";
import type { Deployment } from "@bowline/contract/deployments";

/** What a runtime says about itself. */
export interface RuntimeDescription {
  kind: "docker" | "kubernetes" | "local";
  version: string;
  /** What makes this runtime the same one tomorrow, over restarts of agent and host. */
  identity: string;
  /** Features, e.g. `volumes`, `pause`, `jobs`. Gateway classes are added by the agent. */
  capabilities: readonly string[];
  /** Instances that it takes; 0: no limit known. */
  instanceLimit: number;
  /** Empty: healthy; else what is wrong, for people. */
  problem: string;
}

export type InstancePhase = "STARTING" | "RUNNING" | "STOPPING" | "STOPPED" | "PAUSED" | "EXITED" | "BACKING_OFF";
export type InstanceHealth = "UNKNOWN" | "HEALTHY" | "UNHEALTHY";

/** One running (or ended) member of a workload. */
export interface ObservedInstance {
  workload: string;
  /** 0-based. */
  index: number;
  phase: InstancePhase;
  health: InstanceHealth;
  /** Starts after the first, in this generation. */
  restarts: number;
  exitCode?: number;
  image: string;
  ports: readonly { name: string; container: number; address: string; published: number }[];
  /** Why it is as it is, for people. */
  reason: string;
  /** It runs, but somebody changed it by hand; `reason` says what. Unset: nobody did. */
  altered?: boolean;
  startedAt?: Date;
}

/** What a runtime sees of one deployment. */
export interface ObservedDeployment {
  deploymentId: string;
  generation: number;
  /** All of its instances, also stopped and ended ones. */
  instances: readonly ObservedInstance[];
  /** True: nothing of it is left. */
  absent: boolean;
}

export interface WorkloadProgress {
  workload: string;
  phase: string;
  /** 0–100. */
  percent: number;
  message: string;
}

/** How far a converge is. Only the newest report matters. */
export interface ConvergeProgress {
  phase: string;
  /** 0–100. */
  percent: number;
  message: string;
  workloads: readonly WorkloadProgress[];
}

/** How a converge ended. Expected endings are values; misuse and defects throw. */
export type ConvergeEnd =
  | { kind: "succeeded"; remark?: Remark }
  | { kind: "failed"; reason: FailureReason; message: string; worthRetry: boolean }
  | { kind: "cancelled" };

/** Stable reasons of a failed converge, and what each means. docs/errors.md is made of this. */
export const failureReasons = {
  IMAGE_UNAVAILABLE: "The image or the program is not there.",
  START_FAILED: "The process or container did not start, or ended at once.",
  UNHEALTHY: "It runs, but its health check did not pass in time.",
  PORT_TAKEN: "Something else has a published port, or a port of the gateway's listeners.",
  VOLUME_FAILED: "A volume cannot be made.",
  DEPENDENCY_FAILED: "A workload that it depends on failed.",
  GATE_FAILED: "A gate of the new generation says no; the one before serves on.",
  DENIED_BY_HOST: "The spec needs what the owner of the host denies the agent (`--deny`); nothing was changed.",
  UNSUPPORTED: "The spec has a feature that this agent does not have.",
  RUN_TIMEOUT: "The attempt took longer than its run timeout.",
  AGENT_CRASHED: "The agent ended three times during the same attempt.",
  DATA_PLANE_NOT_READY: "The data plane that the routes belong to is not there yet, or has failed.",
  BACKEND_UNREACHABLE: "A backend does not take connections.",
  PRIVATE_BACKEND: "A backend's name leads to an address that the cluster's policy forbids.",
  ROUTES_REFUSED: "The data plane refuses the routes.",
  PROBE_FAILED: "The data plane does not answer with the new generation.",
  DISK_FULL: "There is no space left where the agent keeps its data.",
  SPEC_INVALID: "The spec does not match its digest, or cannot be read.",
  SECRET_UNREADABLE: "The server cannot read a secret that it needs: set its value again, then publish again.",
  INTERNAL: "A defect of the agent; its log has more.",
} as const satisfies Record<string, string>;
export type FailureReason = keyof typeof failureReasons;

/** What a success may say beside. docs/errors.md is made of this as well. */
export const remarkReasons = {
  GATE_INCONCLUSIVE: "It succeeded, but a gate of it could not tell in time whether all is well.",
} as const satisfies Record<string, string>;

export interface Remark {
  reason: keyof typeof remarkReasons;
  message: string;
}

/** Of a terminal, in characters. */
export interface TerminalSize {
  columns: number;
  rows: number;
}

/** What is run in an instance, beside what it runs itself. */
export interface ExecRequest {
  /** Program and arguments; no shell reads them. */
  command: readonly string[];
  /** With a terminal: it then writes to stdout only. */
  tty: boolean;
  /** Of the terminal, before the program starts. */
  size?: TerminalSize;
}

export type ExecInput = { kind: "stdin"; bytes: Uint8Array } | { kind: "resize"; size: TerminalSize };

/** Why nothing is run. */
export type ExecRefusal = "INSTANCE_UNKNOWN" | "INSTANCE_NOT_RUNNING" | "UNSUPPORTED" | "DENIED_BY_HOST";

/** `exit` and `refused` come last, and at most one of them. */
export type ExecOutput =
  | { kind: "stdout" | "stderr"; bytes: Uint8Array }
  /** `code` as a shell reports it: 128 + number for a signal, 126 or 127 where the program cannot be started. */
  | { kind: "exit"; code: number }
  | { kind: "refused"; reason: ExecRefusal; message: string };

export type ForeignContainers =
  | { kind: "listed"; containers: readonly ForeignContainer[] }
  | { kind: "refused"; reason: "DENIED_BY_HOST"; message: string };

export interface Runtime {
  describe(): Promise<RuntimeDescription>;

  /**
   * Makes exactly this spec true, whatever `desired` says; idempotent; replaces
   * only what changed. Returns when every workload is healthy (a job: when it
   * has ended with exit code 0), or with the reason of the first that is not.
   * After `signal` aborts it ends within the stop grace, as `cancelled`.
   *
   * `spec.dataPlane` and `spec.routes` are not its business.
   */
  converge(spec: Deployment, report: (progress: ConvergeProgress) => void, signal: AbortSignal): Promise<ConvergeEnd>;

  /** Everything that carries our labels now. */
  list(): Promise<ObservedDeployment[]>;

  /** Calls `changed` with the newest observation of a deployment whenever it differs from the last; returns when `signal` aborts. */
  watch(changed: (observed: ObservedDeployment) => void, signal: AbortSignal): Promise<void>;

  /** Address at which a workload's port (name or number) can be reached from the agent; undefined while there is none. */
  upstream(deploymentId: string, workload: string, port: string): Promise<{ host: string; port: number } | undefined>;

  /**
   * Path, on the agent's host, of a volume of a deployment, where the agent can write files that its
   * workloads read; undefined where the runtime cannot offer one.
   */
  volumePath(deploymentId: string, volume: string): Promise<string | undefined>;

  /**
   * The last `lines` lines that an instance wrote, then new ones while `follow`; ends when `signal` aborts. With
   * `timestamps` each line begins with its time (RFC 3339) and a blank, where the runtime keeps times.
   */
  logs(
    deploymentId: string,
    workload: string,
    index: number,
    options: { lines: number; follow: boolean; timestamps?: boolean },
    signal: AbortSignal,
  ): AsyncIterable<Uint8Array>;

  /**
   * Runs a program in an instance, with the instance's environment, files and limits. The end of `input` is the end
   * of its stdin. Nothing is read ahead: whoever reads slowly slows the program, and a program that does not read
   * slows `input`.
   *
   * What it started ends when `signal` aborts (or the iteration is left); the iteration then ends without `exit`. It
   * ends with its instance too. Throws where the runtime cannot be asked.
   */
  exec(
    deploymentId: string,
    workload: string,
    index: number,
    request: ExecRequest,
    input: AsyncIterable<ExecInput>,
    signal: AbortSignal,
  ): AsyncIterable<ExecOutput>;

  /**
   * Containers on the host that are not its own; only ever read. Throws where the runtime cannot be asked. Unset: it
   * knows none.
   */
  foreignContainers?(signal: AbortSignal): Promise<ForeignContainers>;

  /** Lets go of everything that the agent process holds. Workloads go on running unless `stopWorkloads`. */
  close(options: { stopWorkloads: boolean }): Promise<void>;
}
