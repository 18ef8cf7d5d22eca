/**
 * What runtimes share: how a spec is checked, compared with what is there, and
 * rolled out. Each brings its instances (members.ts) and how they are seen.
 *
 *   converge.ts   makes a spec true           rollout.ts   starts the new, undoes the failed
 *   plan.ts       what is there already       order.ts     who waits for whom
 *   workloads.ts  what a spec may say         ports.ts     numbers on the host
 *   refusal.ts    why it does not become true
 *   durable.ts, lock.ts   what is kept in a data folder, and by whom
 */
export * from "./converge.ts";
export * from "./durable.ts";
export * from "./lock.ts";
export * from "./members.ts";
export * from "./order.ts";
export * from "./plan.ts";
export * from "./ports.ts";
export * from "./refusal.ts";
export * from "./rollout.ts";
export * from "./workloads.ts";
