/**
 * The data plane port: what a gateway class implements, in
 * `agents/dataplanes/<class>`. The agent's core turns a data plane deployment
 * into workloads through it, and hands it the routes that attach to it.
 *
 *   runtime.ts   what runs the workloads    converge.ts  calls both
 *
 * D1: a converge of routes has succeeded only when the data plane itself
 *     answers with this generation.
 * D2: what the data plane refuses is taken out again; the last good generation
 *     of those routes serves on, and no other routes are disturbed.
 * D3: nothing is removed because nobody names it: an agent whose journal got
 *     lost finds routes that it has no record of, and they serve on.
 */
import type { DataPlane, Deployment, Routes } from "@bowline/contract/deployments";
import type { ConvergeEnd, ConvergeProgress, Runtime } from "./runtime.ts";

/** Routes of one deployment at one generation. */
export interface AttachedRoutes {
  deploymentId: string;
  generation: number;
  routes: Routes;
  /** Values of the secrets that backends name, by name, in clear text: never logged, on disk only with mode 0600. */
  secrets?: Readonly<Record<string, string>>;
}

export interface DataPlaneClass {
  /** As agents report it (`gateway-class/<name>`) and gateways ask for it. */
  readonly name: string;

  /**
   * The data plane's deployment with the workloads and volumes that make it run
   * with this runtime. Pure: same input, same workloads, so that the runtime
   * can see that nothing changed.
   */
  compile(spec: Deployment, dataPlane: DataPlane, runtime: Runtime): Deployment;

  /**
   * Called after the runtime converged the compiled deployment and after every
   * restart of the agent: attaches to the running data plane and hands it the
   * last good generation of everything in `attached`. Else what the agent knows
   * is served no longer; what it does not know is left as it is (D3). Fails
   * with DATA_PLANE_NOT_READY or PORT_TAKEN.
   */
  start(
    deploymentId: string,
    dataPlane: DataPlane,
    attached: readonly AttachedRoutes[],
    isKnown: (deploymentId: string) => boolean,
    runtime: Runtime,
    signal: AbortSignal,
  ): Promise<ConvergeEnd>;

  /**
   * Serves these routes beside all others of that data plane: checks the
   * backends, applies, probes (D1), and takes them out again on a failure (D2),
   * bringing back `previous`.
   */
  apply(
    dataPlaneDeploymentId: string,
    next: AttachedRoutes,
    previous: AttachedRoutes | undefined,
    runtime: Runtime,
    report: (progress: ConvergeProgress) => void,
    signal: AbortSignal,
  ): Promise<ConvergeEnd>;

  /** Serves these routes no longer; requests in flight end. No error where there are none, or no data plane. */
  remove(
    dataPlaneDeploymentId: string,
    deploymentId: string,
    generation: number,
    runtime: Runtime,
    signal: AbortSignal,
  ): Promise<ConvergeEnd>;
}
