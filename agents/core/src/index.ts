/**
 * The agent's core: everything that does not depend on what things run with.
 *
 *   runtime.ts, dataplane.ts   the ports: what a runtime and a gateway class implement
 *   config.ts, log.ts          settings and log of a runtime's main.ts
 *   program.ts                 what every main.ts does: signals, lifeline, exit codes
 *   supervise.ts               the agent's life, in stages
 *   identity.ts, enrol.ts      keys, state, enrolment
 *   dial.ts                    where to, and whom to trust there
 *   connect.ts, serve.ts       the stream: dialling, and one session
 *   transports.ts, probe.ts    where no stream passes: polling, and back
 *   intake.ts, fetch.ts        from a push to the journal
 *   journal.ts, journal-file.ts   what survives a crash, and where
 *   converge.ts, gateways.ts   from the journal to a result
 *   denials.ts                 what the host's owner denies
 *   health.ts                  how it is, for who looks from beside it
 *   tunnels.ts, container-frames.ts   logs, exec and others' containers, on connections of their own
 *   observe.ts, load.ts        what runs, and how busy the machine is
 *   runtimes/                  what runtimes share (`@bowline/agent-core/runtimes`)
 */
export * from "./config.ts";
export * from "./dataplane.ts";
export * from "./dial.ts";
export * from "./identity.ts";
export * from "./log.ts";
export * from "./program.ts";
export * from "./runtime.ts";
export * from "./supervise.ts";
export { agentVersion } from "./version.ts";
// The parts between its ports, for the simulation of tests/simulation.
export { connect } from "./connect.ts";
export { createConverger, type Converger } from "./converge.ts";
export type { Gateways } from "./gateways.ts";
export { openJournalFile, type Journal } from "./journal.ts";
export type { JournalFile } from "./journal-file.ts";
export type { Observer } from "./observe.ts";
export { serve } from "./serve.ts";
export { chooseTransport } from "./transports.ts";
