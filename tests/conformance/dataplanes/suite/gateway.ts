/** A running data plane with real upstreams, and short ways to publish to it and to ask it. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import type { AttachedRoutes, ConvergeEnd, DataPlaneClass } from "@bowline/agent-core";
import {
  DataPlaneSchema,
  Deployment_Desired,
  DeploymentSchema,
  RoutesSchema,
  type BackendSchema,
  type HttpRoute,
  type HttpRouteSchema,
} from "@bowline/contract/deployments";
import { ask, type Answer, type AskOptions } from "./client.ts";
import { startScriptedRuntime, type ScriptedRuntime } from "./runtime.ts";

export const dataPlaneId = "deployment_dataplane";

export type RouteInit = Exclude<MessageInitShape<typeof HttpRouteSchema>, HttpRoute>;
export type BackendInit = MessageInitShape<typeof BackendSchema>;

export interface Served {
  /** Default `deployment_a`. Their order is their age. */
  id?: string;
  generation?: number;
  routes: RouteInit[];
  backends?: BackendInit[];
  allowPrivateBackends?: boolean;
}

export interface Gateway extends AsyncDisposable {
  dataPlane: DataPlaneClass;
  runtime: ScriptedRuntime;
  /** Of the listener `web`. */
  port: number;
  ask(path: string, options?: AskOptions): Promise<Answer>;
  apply(served: Served, previous?: Served, signal?: AbortSignal): Promise<ConvergeEnd>;
  remove(id: string): Promise<ConvergeEnd>;
  /** As an agent after its restart. */
  start(attached: Served[], isKnown?: (deploymentId: string) => boolean): Promise<ConvergeEnd>;
}

export function attachedRoutes({ id = "deployment_a", generation = 1, ...served }: Served): AttachedRoutes {
  const { routes, backends = [], allowPrivateBackends = true } = served;
  return {
    deploymentId: id,
    generation,
    routes: create(RoutesSchema, {
      dataPlaneDeploymentId: dataPlaneId,
      product: "hello",
      revision: 1,
      apiServices: [{ name: "api", routes, backends }],
      allowPrivateBackends,
    }),
  };
}

/**
 * Starts a data plane with one listener `web`. Dispose it: nothing is left.
 * `environment` is added to that of its processes.
 */
export async function startGateway(
  dataPlane: DataPlaneClass,
  environment: Record<string, string> = {},
): Promise<Gateway> {
  const runtime = await startScriptedRuntime();
  const signal = AbortSignal.timeout(60_000);
  const description = create(DataPlaneSchema, {
    gatewayId: "gateway_test",
    gatewayClass: dataPlane.name,
    listeners: [{ name: "web", protocol: "HTTP", port: 0 }],
  });
  const spec = create(DeploymentSchema, { id: dataPlaneId, generation: 1, desired: Deployment_Desired.RUNNING });
  const compiled = dataPlane.compile(spec, description, runtime);
  for (const workload of compiled.workloads) Object.assign(workload.environment, environment);
  try {
    succeeded(await runtime.converge(compiled, () => {}, signal));
    succeeded(await dataPlane.start(dataPlaneId, description, [], () => true, runtime, signal));
  } catch (error) {
    await runtime.close({ stopWorkloads: true });
    throw error;
  }
  const upstream = (await runtime.upstream(dataPlaneId, compiled.workloads[0]!.name, "web"))!;
  return {
    dataPlane,
    runtime,
    port: upstream.port,
    ask: (path, options) => ask(upstream.port, path, options),
    apply: (served, previous, until = AbortSignal.timeout(60_000)) =>
      dataPlane.apply(
        dataPlaneId,
        attachedRoutes(served),
        previous === undefined ? undefined : attachedRoutes(previous),
        runtime,
        () => {},
        until,
      ),
    remove: (id) => dataPlane.remove(dataPlaneId, id, 1, runtime, AbortSignal.timeout(60_000)),
    start: (attached, isKnown = () => true) => {
      const until = AbortSignal.timeout(60_000);
      return dataPlane.start(dataPlaneId, description, attached.map(attachedRoutes), isKnown, runtime, until);
    },
    async [Symbol.asyncDispose]() {
      await runtime.close({ stopWorkloads: true });
    },
  };
}

export function succeeded(end: ConvergeEnd): void {
  if (end.kind !== "succeeded") throw new Error(`not succeeded: ${JSON.stringify(end)}`);
}
