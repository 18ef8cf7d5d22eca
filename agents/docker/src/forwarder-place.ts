/**
 * Where the forwarders of this agent's deployments run, so that they hold ports
 * of the engine's host and reach its containers at their own addresses.
 *
 *   process    beside the agent, which is a process on the engine's host
 *   container  of the agent's own image, in the network of the engine's host: the agent is itself a container of
 *              this engine, or the engine is elsewhere and has the image
 *   none       and why, for people
 */
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { fileURLToPath } from "node:url";
import { forwarderBuild } from "@bowline/agent-core/runtimes";
import { EngineError, type Engine, type EngineAddress } from "./engine.ts";
import manifest from "../package.json" with { type: "json" };

/** What an engine says about itself; only what we look at. */
export interface EngineInfo {
  ID: string;
  OperatingSystem: string;
  SecurityOptions: string[] | null;
}

export interface InContainers {
  kind: "container";
  /** By its id: a tag may lead to another one tomorrow. */
  image: string;
  /** Of the forwarder in that image; another one is another version. */
  build: string;
  /** Whether the agent sees the same ports as its forwarders. */
  portsAreHere: boolean;
  /** As the engine takes it: where it maps users, the host's network is for the host's users only. */
  usernsMode: string;
}

export type ForwarderPlace = { kind: "process" } | InContainers | { kind: "none"; why: string };

/** As deploy/images has it. */
export const forwarderProgram = "/bowline/agents/forwarder/src/main.ts";

/** What an engine elsewhere has to have. */
export const agentImage = `bowline/agent-docker:${manifest.version}`;

/** `image`: forwarders are containers of it, wherever the agent is. */
export async function forwarderPlace(
  engine: Engine,
  address: EngineAddress,
  { OperatingSystem, SecurityOptions }: EngineInfo,
  image: string | undefined,
): Promise<ForwarderPlace> {
  const none = (why: string): ForwarderPlace => ({ kind: "none", why });
  const has = (option: string): boolean => (SecurityOptions ?? []).some((one) => one.includes(`name=${option}`));
  if (OperatingSystem === "Docker Desktop") return none("containers of Docker Desktop have no ports of this machine");
  if (has("rootless")) return none("containers of a rootless engine have no ports of its host");
  const usernsMode = has("userns") ? "host" : "";
  const own = await ownContainer(engine);
  if (own !== undefined && image === undefined) {
    if (fileURLToPath(new URL("../../forwarder/src/main.ts", import.meta.url)) !== forwarderProgram)
      return none("the agent's container is not one of its own image, of which forwarders are made (deploy/images)");
    const portsAreHere = own.HostConfig.NetworkMode === "host";
    return { kind: "container", image: own.Image, build: forwarderBuild(), portsAreHere, usernsMode };
  }
  const isHere = address.host.startsWith("unix:");
  if (isHere && image === undefined) return { kind: "process" };
  const name = image ?? agentImage;
  const found = await known<{ Id: string }>(engine, `/images/${name}/json`);
  if (found === undefined)
    return none(
      `the engine at ${address.host} has no image ${name}, of which forwarders are made: pull or load it there, then start the agent again`,
    );
  return { kind: "container", image: found.Id, build: found.Id.slice(0, 23), portsAreHere: isHere, usernsMode };
}

/** The container that this process is in, if it is one of this engine. */
async function ownContainer(
  engine: Engine,
): Promise<{ Image: string; HostConfig: { NetworkMode: string } } | undefined> {
  for (const id of ownIds()) {
    const found = await known<{ Image: string; HostConfig: { NetworkMode: string } }>(engine, `/containers/${id}/json`);
    if (found !== undefined) return found;
  }
  return undefined;
}

async function known<T>(engine: Engine, path: string): Promise<T | undefined> {
  try {
    return await engine.call<T>("GET", path);
  } catch (error) {
    if (error instanceof EngineError && error.status === 404) return undefined;
    throw error;
  }
}

/** By which an engine would know this process, were it in one of its containers. */
function ownIds(): string[] {
  const mounts = readFileSync("/proc/self/mountinfo", "latin1");
  const ids = [...mounts.matchAll(/\/containers\/([0-9a-f]{64})\//g)].flatMap(([, id]) => id ?? []);
  const name = hostname();
  return [...new Set([...ids, ...(/^[0-9a-f]{12}$/.test(name) ? [name] : [])])];
}
