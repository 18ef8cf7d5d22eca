/**
 * The local runtime: instances are processes of this machine.
 *
 *   runtime.ts     the port, on top of what runtimes share (@bowline/agent-core/runtimes) and:
 *   deployments.ts what is held and stored  instances.ts  the life of one instance
 *   launch.ts      one run of it            processes.ts  what /proc tells, signals
 *   health.ts  logs.ts  strays.ts  volumes.ts  workloads.ts  observe.ts
 *
 * main.ts is the agent's program around it.
 */
export { createLocalRuntime } from "./runtime.ts";
export type { LocalRuntimeOptions } from "./runtime.ts";
export type { Times } from "./times.ts";
