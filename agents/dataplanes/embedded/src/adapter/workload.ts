/** The data plane's workload, as any runtime takes it. */
import { clone, create } from "@bufbuild/protobuf";
import {
  DeploymentSchema,
  HealthCheckSchema,
  MountSchema,
  PortSchema,
  RestartPolicy,
  VolumeSchema,
  WorkloadSchema,
  type DataPlane,
  type Deployment,
} from "@bowline/contract/deployments";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { fileURLToPath } from "node:url";
import { version } from "../version.ts";
import type { ListenerSetting } from "../config.ts";
import { adminPortName, configVolume, workloadName } from "../document.ts";

/** In-flight requests have this long when the data plane is stopped or replaced; a runtime kills it a second later. */
const graceMs = 10_000;
const killAfterMs = graceMs + 1_000;

const entry = fileURLToPath(new URL("../main.ts", import.meta.url));

/**
 * Pure. Listeners and the admin port become ports: container and published are
 * the same, 0 is any free one, which the runtime tells the process in
 * BOWLINE_PORT_<NAME>. The restart stamp is this package's version, so that an
 * updated agent brings its own data plane.
 */
export function compileWorkload(spec: Deployment, dataPlane: DataPlane): Deployment {
  const listeners = dataPlane.listeners.map(({ name, port, address }): ListenerSetting => ({ name, port, address }));
  const compiled = clone(DeploymentSchema, spec);
  compiled.volumes.push(create(VolumeSchema, { name: configVolume }));
  compiled.workloads.push(
    create(WorkloadSchema, {
      name: workloadName,
      image: `bowline/data-plane-embedded:${version}`,
      // The host's own certificate authorities count as well, for https backends.
      command: [process.execPath, "--use-system-ca", entry],
      args: ["--config", configVolume, "--admin-port-name", adminPortName, "--grace-ms", String(graceMs)],
      environment: { BOWLINE_LISTENERS: JSON.stringify(listeners) },
      ports: [
        ...dataPlane.listeners.map(({ name, port, address }) =>
          create(PortSchema, { name, container: port, published: port, protocol: "tcp", hostAddress: address }),
        ),
        create(PortSchema, {
          name: adminPortName,
          container: 0,
          published: 0,
          protocol: "tcp",
          hostAddress: "127.0.0.1",
        }),
      ],
      mounts: [create(MountSchema, { source: { case: "volume", value: configVolume }, path: `/${configVolume}` })],
      healthCheck: create(HealthCheckSchema, {
        probe: { case: "http", value: { port: adminPortName, path: "/healthz" } },
        interval: durationFromMs(1_000),
        timeout: durationFromMs(2_000),
        retries: 5,
        startPeriod: durationFromMs(10_000),
      }),
      restartPolicy: RestartPolicy.ALWAYS,
      stopGrace: durationFromMs(killAfterMs),
      restartStamp: version,
    }),
  );
  return compiled;
}
