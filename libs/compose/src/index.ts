/**
 * Compose files: from text to a checked model. Nothing here reads a file, the
 * network, the clock or the environment: whoever calls gives everything.
 *
 *   parse.ts        the way through: read, interpolate, check, merge, normalise
 *   read.ts         YAML to trees (tree.ts) that know where each node stands
 *   interpolate.ts  the grammar of variables; substitute.ts: on a tree
 *   schema.ts       the published schema, and why a file does not match it
 *   compose.ts      include and extends; merge.ts, canonical.ts: several files
 *   support.ts      what becomes of every key; support-check.ts says it
 *   service.ts, deploy.ts, health.ts, ports.ts, mounts.ts, host.ts, envfile.ts,
 *   resources.ts, attach.ts   the parts of the model (model.ts)
 *   asks.ts         what a model asks of the host; policy.ts: what a cluster allows of it
 *   diff.ts, print.ts   two models compared; one model as YAML
 */
export { asksOf } from "./asks.ts";
export * from "./diff.ts";
export { readEnvFile } from "./envfile.ts";
export * from "./limits.ts";
export type * from "./model.ts";
export * from "./parse.ts";
export * from "./policy.ts";
export * from "./print.ts";
export * from "./reasons.ts";
export { diagnosticLine, type Diagnostic, type Place } from "./report.ts";
export { sections, type Section, type Support } from "./support.ts";
