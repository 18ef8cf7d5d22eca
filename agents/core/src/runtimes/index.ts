/**
 * What runtimes share: how a spec is checked, compared with what is there, and
 * rolled out. Each brings its instances (members.ts) and how they are seen.
 *
 *   converge.ts   makes a spec true           rollout.ts   starts the new, undoes the failed
 *   plan.ts       what is there already       order.ts     who waits for whom
 *   workloads.ts  what a spec may say         ports.ts     numbers on the host
 *   readiness.ts  whether an instance is there   health.ts   checks by the agent
 *   gates.ts      what else has to hold          forwards/   ports that the agent holds
 *   places.ts     which instance stands for one of several
 *   refusal.ts    why it does not become true
 *   observations.ts   what watchers are told    turns.ts     one thing at a time
 *   secrets.ts        opened when they are needed
 *   durable.ts, identity.ts, lock.ts, processes.ts   what is kept in a data folder, and by whom
 */
export * from "./converge.ts";
export * from "./durable.ts";
export * from "./forwards/index.ts";
export * from "./gates.ts";
export * from "./health.ts";
export * from "./identity.ts";
export * from "./lock.ts";
export * from "./members.ts";
export * from "./observations.ts";
export * from "./order.ts";
export * from "./places.ts";
export * from "./plan.ts";
export * from "./ports.ts";
export * from "./processes.ts";
export * from "./readiness.ts";
export * from "./refusal.ts";
export * from "./rollout.ts";
export * from "./secrets.ts";
export * from "./turns.ts";
export * from "./workloads.ts";
