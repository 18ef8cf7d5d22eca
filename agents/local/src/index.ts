/**
 * The local runtime: instances are processes of this machine.
 *
 *   runtime.ts     the port, on top of:
 *   converge.ts    makes a spec true        rollout.ts    starts the new, undoes the failed
 *   deployments.ts what is held and stored  instances.ts  the life of one instance
 *   launch.ts      one run of it            processes.ts  what /proc tells, signals
 *   health.ts  logs.ts  ports.ts  volumes.ts  workloads.ts  observe.ts
 *
 * main.ts is the agent's program around it.
 */
export { createLocalRuntime } from "./runtime.ts";
export type { LocalRuntimeOptions } from "./runtime.ts";
export { DataDirInUse } from "./lock.ts";
export type { Times } from "./times.ts";
