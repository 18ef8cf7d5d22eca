/**
 * The gateway class `embedded`: Bowline's own small HTTP proxy and its adapter.
 *
 *   adapter/    runs in the agent: compiles the workload, checks backends, applies, probes
 *   main.ts     the proxy's entry; program.ts, a process of its own; config.ts is its settings
 *   proxy/      the proxy: compiled routes, listeners, forwarding, its admin port
 *   document.ts what passes between the two, as a file and over the admin port
 *   addresses.ts which addresses are private; both ends refuse them
 */
export { embedded, embeddedDataPlane, type EmbeddedOptions } from "./adapter/dataplane.ts";
export { probePath } from "./document.ts";
