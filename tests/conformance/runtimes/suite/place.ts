/**
 * What the conformance suite needs from a kind of runtime, and the words that
 * its tests are written in.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { ConvergeEnd, ConvergeProgress, ObservedDeployment, ObservedInstance, Runtime } from "@bowline/agent-core";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import type { Deployment, Workload, WorkloadSchema } from "@bowline/contract/deployments";

/** One kind of runtime. */
export interface RuntimeKind {
  /** A fresh, empty place: a data folder, a namespace, … */
  place(): Promise<Place>;
}

export type WorkloadInit = Exclude<MessageInitShape<typeof WorkloadSchema>, Workload>;
export type DeploymentInit = Exclude<MessageInitShape<typeof DeploymentSchema>, Deployment>;

export interface Place {
  /** A runtime of this place in this process. At most one at a time. */
  open(): Promise<Runtime>;
  /**
   * A runtime of this place in a process of its own that converges `specs`, one
   * after the other, and stays until it is killed. Resolves when it has, or,
   * with `fault`, when it has died at that crash point.
   */
  host(specs: DeploymentInit[], fault?: string): Promise<{ end?: ConvergeEnd; kill(): Promise<void> }>;
  /** Image and command that run the suite's program (program.js) with these arguments. */
  program(...args: string[]): Pick<WorkloadInit, "image" | "command">;
  /** The suite's programs that run here, as this machine sees them. */
  processes(): Promise<{ pid: number; command: string }[]>;
  /** Ends the forwarder of a deployment, as a crash does. */
  killForwarder(deploymentId: string): Promise<void>;
  /** Everything that runs or is kept for this place, for people; empty after the last ABSENT. */
  leftovers(): Promise<string[]>;
  /** Removes the place, whatever is in it. */
  remove(): Promise<void>;
  /** Wait before the second start of an instance that ended. */
  backoffFirstMs: number;
  /** The agent's data folder. */
  dataDir: string;
  /** Where a port of the host is published when the spec does not say. */
  hostAddress: string;
  /** Bound of what is kept of an instance's output. */
  logBytes: number;
}

/** One deployment, as a test speaks of it. */
export class Subject {
  readonly id: string;
  readonly place: Place;
  generation = 0;
  runtime: Runtime;

  constructor(place: Place, runtime: Runtime, id = "deployment_conformance") {
    this.place = place;
    this.runtime = runtime;
    this.id = id;
  }

  /** The next generation of the deployment. */
  next(workloads: WorkloadInit[], rest: DeploymentInit = {}): DeploymentInit {
    this.generation += 1;
    return { id: this.id, generation: this.generation, desired: Deployment_Desired.RUNNING, workloads, ...rest };
  }

  async converge(
    spec: DeploymentInit,
    signal = new AbortController().signal,
    report: (progress: ConvergeProgress) => void = () => {},
  ): Promise<ConvergeEnd> {
    return await this.runtime.converge(create(DeploymentSchema, spec), report, signal);
  }

  /** Converges to the next generation. */
  async run(workloads: WorkloadInit[], rest: DeploymentInit = {}): Promise<ConvergeEnd> {
    return await this.converge(this.next(workloads, rest));
  }

  async absent(rest: DeploymentInit = {}): Promise<ConvergeEnd> {
    return await this.run([], { desired: Deployment_Desired.ABSENT, ...rest });
  }

  async observed(): Promise<ObservedDeployment | undefined> {
    return (await this.runtime.list()).find(({ deploymentId }) => deploymentId === this.id);
  }

  async instance(workload: string, index = 0): Promise<ObservedInstance | undefined> {
    return (await this.observed())?.instances.find((each) => each.workload === workload && each.index === index);
  }

  /** Waits until the runtime reports an instance for which `holds`. */
  async untilInstance(workload: string, holds: (instance: ObservedInstance) => boolean): Promise<ObservedInstance> {
    const ends = new AbortController();
    let found: ObservedInstance | undefined;
    const limit = AbortSignal.any([ends.signal, AbortSignal.timeout(waitLimitMs)]);
    await this.runtime.watch((observed) => {
      if (observed.deploymentId !== this.id) return;
      const match = observed.instances.find((each) => each.workload === workload && holds(each));
      if (match === undefined || found !== undefined) return;
      found = match;
      ends.abort();
    }, limit);
    if (found === undefined)
      throw new Error(`not seen in ${waitLimitMs} ms; last: ${JSON.stringify(await this.observed())}`);
    return found;
  }

  /** Asks the suite's program. */
  async ask(workload: string, path = "/", method = "GET", withinMs = waitLimitMs): Promise<string> {
    const upstream = await this.runtime.upstream(this.id, workload, "http");
    if (upstream === undefined) throw new Error(`no upstream of ${workload}`);
    const response = await fetch(`http://${upstream.host}:${upstream.port}${path}`, {
      method,
      headers: { connection: "close" },
      signal: AbortSignal.timeout(withinMs),
    });
    return await response.text();
  }

  async order(workload: string, order: string): Promise<string> {
    return await this.ask(workload, `/${order}`, "POST");
  }

  /** SIGKILL for all of the suite's programs, by nobody that the runtime knows. */
  async killPrograms(): Promise<void> {
    for (const { pid } of await this.place.processes()) process.kill(pid, "SIGKILL");
  }

  /** What the program says about itself; `run` is another one for each start. */
  async about(workload: string): Promise<{ run: string; env: Record<string, string>; args: string[] }> {
    return JSON.parse(await this.ask(workload));
  }
}

/** Longest wait for a condition; a machine under load is slow, not wrong. */
const waitLimitMs = 20_000;

/** A port, by its name, that the runtime chooses. */
export const httpPort = { name: "http", container: 8080, published: 0 };

/** Passes when the program answers, seen often. */
export const healthCheck = {
  probe: { case: "http", value: { port: "http", path: "/health" } },
  interval: { seconds: 0n, nanos: 100_000_000 },
  timeout: { seconds: 2n },
  retries: 2,
} as const;

/** Longer than a slow start, so that only what never becomes healthy is called so. */
export const patientHealthCheck = { ...healthCheck, startPeriod: { seconds: 10n } } as const;

/** The suite's server, named `web` unless said otherwise. */
export function server(place: Place, rest: WorkloadInit = {}): WorkloadInit {
  return { name: "web", ...place.program("serve"), ports: [httpPort], healthCheck: patientHealthCheck, ...rest };
}
