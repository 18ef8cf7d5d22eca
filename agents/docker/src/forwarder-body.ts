/**
 * A forwarder's container as the engine makes it (forwarder.ts): it has no
 * volume, no network of its deployment, and no right but that to low ports.
 * Whoever may use the engine may do what it does anyway.
 */
import type { Engine } from "./engine.ts";
import { forwarderProgram, type InContainers } from "./forwarder-place.ts";
import { forwarderSlot, labels } from "./labels.ts";

/** Its own folder inside. */
export const home = "/run/bowline-forwarder";
/** Lines of a few hundred bytes, of which the last one counts. */
const logBytes = 1024 * 1024;
/** Where the agent's image has its volume: a forwarder keeps nothing there. */
const agentVolume = "/var/lib/bowline";
/** It closes its ports and waits for nothing. */
export const stopSeconds = 3;

export interface ForwarderOwner {
  engine: Engine;
  agent: string;
  installation: string;
  place: InContainers;
}

export function bodyOf(deploymentId: string, { agent, installation, place }: ForwarderOwner): object {
  return {
    Image: place.image,
    User: "0:0",
    WorkingDir: "/",
    Entrypoint: ["node", forwarderProgram, home, place.build, "stdout"],
    Cmd: [],
    Env: ["NODE_DISABLE_COMPILE_CACHE=1"], // the image's is another user's
    Healthcheck: { Test: ["NONE"] },
    StopSignal: "SIGTERM", // said, so that SIGHUP is no stop to the engine
    StopTimeout: stopSeconds,
    Labels: {
      [labels.agent]: agent,
      [labels.installation]: installation,
      [labels.deployment]: deploymentId,
      [labels.workload]: forwarderSlot,
      [labels.slot]: forwarderSlot,
      [labels.forwarder]: place.build,
    },
    HostConfig: {
      NetworkMode: "host",
      UsernsMode: place.usernsMode,
      // `unless-stopped` would take our SIGHUP for a stop when the engine starts again.
      RestartPolicy: { Name: "always" },
      CapDrop: ["ALL"],
      CapAdd: ["NET_BIND_SERVICE"],
      SecurityOpt: ["no-new-privileges"],
      Mounts: [{ Type: "tmpfs", Target: agentVolume, TmpfsOptions: { SizeBytes: 65_536 } }],
      LogConfig: { Type: "json-file", Config: { "max-size": String(logBytes), "max-file": "1" } },
    },
  };
}
