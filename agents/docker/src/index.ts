/**
 * The Docker runtime: instances are containers of a Docker Engine.
 *
 *   runtime.ts     the port, on top of what runtimes share (@bowline/agent-core/runtimes) and:
 *   deployments.ts what is held and stored  instances.ts  the life of one container
 *   workloads.ts   what the engine is told  containers.ts what it says
 *   engine.ts      its API                  observe.ts    its events
 *   config.ts      which engine
 *   alterations.ts  what people changed by hand
 *   images.ts  pulls.ts (how far)  places.ts (networks, volumes)  archive.ts (files)  creation.ts
 *   forwarder.ts  forwarder-body.ts  forwarder-place.ts  what holds ports, where that is no process here
 *   reach.ts  logs.ts  labels.ts
 *
 * main.ts is the agent's program around it.
 */
export { engineAddress } from "./config.ts";
export { EngineError, type EngineAddress } from "./engine.ts";
export { createDockerRuntime, type DockerRuntimeOptions } from "./runtime.ts";
export type { Times } from "./times.ts";
