/**
 * What every part uses and what uses nothing.
 *
 *   ids.ts      TypeIDs                    clock.ts   the clock as a port
 *   errors.ts   the closed set of reasons  backoff.ts waits between attempts
 *   stages.ts   start in order, stop in reverse
 *   faults.ts   named crash points for fault tests
 */
export * from "./backoff.ts";
export * from "./clock.ts";
export * from "./errors.ts";
export * from "./faults.ts";
export * from "./ids.ts";
export * from "./stages.ts";
