/**
 * What every part uses and what uses nothing.
 *
 *   ids.ts      TypeIDs                    clock.ts   the clock as a port
 *   errors.ts   the closed set of reasons  backoff.ts waits between attempts
 *   stages.ts   start in order, stop in reverse
 *   flows.ts    items between two sides that take turns
 *   faults.ts   named crash points for fault tests
 *   images.ts   which registry an image is of
 *   host-rights.ts  what may be wanted of a host beyond the ordinary
 */
export * from "./backoff.ts";
export * from "./clock.ts";
export * from "./errors.ts";
export * from "./faults.ts";
export * from "./flows.ts";
export * from "./host-rights.ts";
export * from "./ids.ts";
export * from "./images.ts";
export * from "./stages.ts";
