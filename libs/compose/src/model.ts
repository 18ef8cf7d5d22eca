/**
 * What the files say, checked and in one form: the model that a stack is
 * compiled from. Everything in it has a meaning; what the files say and the
 * model lacks was refused or warned about.
 *
 * M1: plain data, in a stable order; the same files give the same JSON.
 * M2: no secret's content. It stands beside the model (`ParsedStack.contents`).
 * Sizes are bytes, times milliseconds, CPU thousandths of a core.
 */
import type { Place } from "./report.ts";

/** A stack. Lists are sorted by name. */
export interface Stack {
  readonly name: string;
  readonly services: readonly Service[];
  readonly volumes: readonly Volume[];
  readonly networks: readonly Network[];
  readonly secrets: readonly Secret[];
  readonly configs: readonly Config[];
}

/** One service. Undefined fields: the image's or the runtime's own. */
export interface Service {
  readonly name: string;
  readonly image: string;
  readonly platform?: string;
  readonly pullPolicy?: "always" | "never" | "missing";
  /** Replaces the image's ENTRYPOINT. */
  readonly entrypoint?: readonly string[];
  /** Replaces the image's CMD. */
  readonly command?: readonly string[];
  /** With the content of env files below it. */
  readonly environment: Readonly<Record<string, string>>;
  readonly ports: readonly Port[];
  /** Ports that other services use; published nowhere. */
  readonly expose: readonly Exposed[];
  readonly mounts: readonly Mount[];
  readonly secrets: readonly FileMount[];
  readonly configs: readonly FileMount[];
  /** Empty with `networkMode`. */
  readonly networks: readonly Attachment[];
  /** `none`, `host`, or `container:NAME`. */
  readonly networkMode?: string;
  readonly dependsOn: readonly Dependency[];
  readonly healthcheck?: Healthcheck;
  /** `global`: one instance per agent that the placement allows. */
  readonly mode: "replicated" | "global";
  /** It runs to its end: a job mode, or others wait for its completion. */
  readonly job: boolean;
  readonly replicas: number;
  readonly limits: Amounts;
  readonly reservations: Pick<Amounts, "memoryBytes">;
  readonly update?: RolloutSettings;
  readonly constraints: readonly Constraint[];
  readonly maxReplicasPerAgent?: number;
  readonly restart: Restart;
  readonly labels: Readonly<Record<string, string>>;
  readonly logging?: { readonly driver?: string; readonly options: Readonly<Record<string, string>> };
  readonly stopSignal?: string;
  readonly stopGraceMs?: number;
  readonly user?: string;
  readonly groups: readonly string[];
  readonly workingDir?: string;
  readonly readOnly: boolean;
  readonly init: boolean;
  readonly tty: boolean;
  readonly stdinOpen: boolean;
  readonly hostname?: string;
  readonly domainname?: string;
  /** `NAME=ADDRESS`; the address `host-gateway` is the host's own. */
  readonly extraHosts: readonly string[];
  readonly dns: readonly string[];
  readonly dnsSearch: readonly string[];
  readonly dnsOptions: readonly string[];
  readonly ulimits: Readonly<Record<string, { readonly soft: number; readonly hard: number }>>;
  readonly shmBytes?: number;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly capDrop: readonly string[];
  /** What needs the cluster's policy, besides `networkMode`, bind mounts and devices. */
  readonly privileged: boolean;
  readonly capAdd: readonly string[];
  readonly devices: readonly string[];
  readonly securityOptions: readonly string[];
  readonly cgroupParent?: string;
  readonly pid?: string;
  readonly ipc?: string;
  readonly uts?: string;
  readonly userns?: string;
}

/** A published port. */
export interface Port {
  readonly name?: string;
  readonly container: number;
  /** 0: any free one of the host. */
  readonly published: number;
  readonly protocol: "tcp" | "udp";
  /** Empty: all addresses. */
  readonly hostAddress: string;
}

/** A port that is not published. */
export interface Exposed {
  readonly container: number;
  readonly protocol: "tcp" | "udp";
}

/** What a container sees at a path. */
export type Mount =
  | {
      readonly kind: "volume";
      /** Empty: a volume of this mount's own. */
      readonly volume: string;
      readonly target: string;
      readonly readOnly: boolean;
    }
  | {
      readonly kind: "bind";
      /** An absolute path of the host, without `..`. */
      readonly source: string;
      readonly target: string;
      readonly readOnly: boolean;
      /** Made as a folder where it is missing. */
      readonly createHostPath: boolean;
    }
  | { readonly kind: "tmpfs"; readonly target: string; readonly sizeBytes?: number; readonly mode?: number };

/** A secret or a config as a file. */
export interface FileMount {
  readonly source: string;
  readonly target: string;
  readonly uid?: string;
  readonly gid?: string;
  /** Mode bits; undefined is 0444. */
  readonly mode?: number;
}

/** A service in a network. */
export interface Attachment {
  readonly network: string;
  /** Names by which it is found there, besides its own. */
  readonly aliases: readonly string[];
}

/** A service that must be there first. */
export interface Dependency {
  readonly service: string;
  readonly condition: "started" | "healthy" | "completed";
}

/** How one knows that it works. */
export interface Healthcheck {
  /** The image's own check does not run either. */
  readonly disabled: boolean;
  /** Program and arguments; `shell`: the arguments of the container's `sh -c`. Undefined: the image's own. */
  readonly test?: { readonly shell: boolean; readonly command: readonly string[] };
  readonly intervalMs?: number;
  readonly timeoutMs?: number;
  readonly retries?: number;
  readonly startPeriodMs?: number;
}

/** What it may use, or is kept for it. Undefined: no limit. */
export interface Amounts {
  readonly cpuMillis?: number;
  readonly memoryBytes?: number;
  readonly pids?: number;
}

/** `update_config`. */
export interface RolloutSettings {
  /** 0: all at once. */
  readonly parallelism: number;
  readonly delayMs: number;
  readonly order: "stop-first" | "start-first";
}

/** One placement constraint. */
export interface Constraint {
  /** `label` with its name, or the agent's host name. */
  readonly kind: "label" | "hostname" | "platform.os" | "platform.arch";
  readonly label?: string;
  readonly operator: "==" | "!=";
  readonly value: string;
}

/** When an ended instance is started again. */
export interface Restart {
  readonly policy: "always" | "on-failure" | "never";
  readonly maxAttempts?: number;
}

/** A named volume. */
export interface Volume {
  readonly name: string;
  /** Its name outside the stack; it is neither made nor removed. */
  readonly externalName?: string;
  readonly driver: string;
  readonly driverOptions: Readonly<Record<string, string>>;
}

/** A network. */
export interface Network {
  readonly name: string;
  /** Its name outside the stack; it is neither made nor removed. */
  readonly externalName?: string;
  readonly driver: string;
  readonly internal: boolean;
}

/** A secret; its content is not here (M2). */
export interface Secret {
  readonly name: string;
  /** Where its content comes from: beside the model, or from the API's secret of that name. */
  readonly source: { readonly kind: "given" } | { readonly kind: "external"; readonly name: string };
}

/** A config. */
export interface Config {
  readonly name: string;
  readonly source: { readonly kind: "given"; readonly content: string; readonly encoding: "utf8" | "base64" };
}

/** Something that a file asks of the host; the cluster's policy says whether it may. */
export interface Ask {
  readonly kind:
    | "host_path"
    | "privileged"
    | "capability"
    | "host_network"
    | "host_namespace"
    | "device"
    | "security_option"
    | "cgroup"
    | "sysctl"
    | "external"
    | "driver"
    | "published_port";
  /** What exactly: the path, the capability, the port (`0/tcp`: any that is free), `pid=host`, `volume:NAME`, … */
  readonly value: string;
  /** With a host path or a device: whether it is asked for reading only. */
  readonly readOnly?: boolean;
  readonly path: string;
  readonly place: Place;
}
