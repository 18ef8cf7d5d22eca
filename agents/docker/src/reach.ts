/** Where the agent finds what a container listens on. */
import { findPort } from "@bowline/agent-core/runtimes";
import type { Engine, EngineAddress } from "./engine.ts";
import type { Instance } from "./instances.ts";

/** Where the agent reaches a port: as published, else in the container's network where that is this host's. */
export function reach(
  engine: Engine,
  address: EngineAddress,
  instance: Instance,
  wanted: string,
): { host: string; port: number } | undefined {
  const { kind } = instance.phase();
  if (kind === "idle" || kind === "exited") return undefined; // what waits for its next start keeps its address
  const port = findPort(instance.definition.ports, wanted);
  if (port === undefined) return undefined;
  if (port.published !== 0) {
    const all = port.address === "0.0.0.0" || port.address === "::";
    return { host: all ? engine.hostname : port.address, port: port.published };
  }
  const host = addressOf(instance);
  return host === undefined || !address.host.startsWith("unix:") ? undefined : { host, port: port.container };
}

/**
 * Where the agent looks whether a port answers: in the container's own network where it can, because the engine's
 * proxy of a published port takes every connection, also where nobody listens behind it.
 */
export function probed(
  engine: Engine,
  address: EngineAddress,
  instance: Instance,
  wanted: string,
): { host: string; port: number } | undefined {
  return (address.host.startsWith("unix:") && inNetwork(instance, wanted)) || reach(engine, address, instance, wanted);
}

/** Where a port of an instance is found on the engine's host, whichever network it is in. */
export function inNetwork(instance: Instance, wanted: string): { host: string; port: number } | undefined {
  const port = findPort(instance.definition.ports, wanted);
  const host = addressOf(instance);
  return port === undefined || host === undefined ? undefined : { host, port: port.container };
}

function addressOf(instance: Instance): string | undefined {
  if (instance.workload.container?.networkMode === "host") return "127.0.0.1"; // its ports are the host's
  const networks = Object.values(instance.seen()?.NetworkSettings.Networks ?? {});
  return networks.find(({ IPAddress }) => IPAddress !== "")?.IPAddress;
}
