/** From a revision and a gateway to the specs that agents converge to. */
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
  DataPlaneSchema,
  Deployment_Desired,
  type Deployment,
  type Listener,
  RoutesSchema,
  ServedApiServiceSchema,
} from "@bowline/contract/deployments";
import type { ProductManifest } from "@bowline/contract/products";

type Spec = Omit<Partial<Deployment>, "$typeName" | "$unknown">;

export interface GatewayTemplate {
  id: string;
  gatewayClass: string;
  listeners: readonly Listener[];
}

/** A gateway's data plane. */
export function dataPlaneSpec(gateway: GatewayTemplate, runTimeoutMs: number): Spec {
  return {
    desired: Deployment_Desired.RUNNING,
    runTimeout: durationFromMs(runTimeoutMs),
    labels: { "bowline.gateway": gateway.id },
    dataPlane: create(DataPlaneSchema, {
      gatewayId: gateway.id,
      gatewayClass: gateway.gatewayClass,
      listeners: [...gateway.listeners],
    }),
  };
}

/** What one publish serves; only the API services that it names, all if it names none. */
export function routesSpec(
  publish: {
    id: string;
    revision: number;
    apiServices: readonly string[];
    runTimeoutMs: number;
    allowPrivateBackends: boolean;
    /** By name, as `<secret id>/<version>`. */
    secretVersions: Record<string, string>;
  },
  content: ProductManifest,
  dataPlaneDeploymentId: string,
): Spec {
  return {
    desired: Deployment_Desired.RUNNING,
    runTimeout: durationFromMs(publish.runTimeoutMs),
    labels: { "bowline.product": content.name },
    secretVersions: publish.secretVersions,
    routes: create(RoutesSchema, {
      dataPlaneDeploymentId,
      productPublishId: publish.id,
      product: content.name,
      revision: publish.revision,
      allowPrivateBackends: publish.allowPrivateBackends,
      apiServices: servedServices(content, publish.apiServices).map((service) =>
        create(ServedApiServiceSchema, { name: service.name, routes: service.routes, backends: service.backends }),
      ),
    }),
  };
}

/** Names of the secrets that these API services' backends have, each once. */
export function secretNames(content: ProductManifest, apiServices: readonly string[]): string[] {
  const names = servedServices(content, apiServices).flatMap(({ backends }) =>
    backends.flatMap(({ secretHeaders }) => secretHeaders.map(({ secret }) => secret)),
  );
  return [...new Set(names)].toSorted((a, b) => (a < b ? -1 : 1));
}

/** Nothing of the deployment is to be left. */
export function absentSpec(about: Spec, runTimeoutMs: number): Spec {
  return {
    ...about,
    desired: Deployment_Desired.ABSENT,
    removeVolumes: true,
    runTimeout: durationFromMs(runTimeoutMs),
  };
}

/** The API services of a revision that a publish names; all if it names none. */
export function servedServices(content: ProductManifest, names: readonly string[]) {
  return names.length === 0
    ? content.apiServices
    : content.apiServices.filter((service) => names.includes(service.name));
}
