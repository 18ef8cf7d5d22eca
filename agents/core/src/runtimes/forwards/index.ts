/**
 * Ports of the host that the agent holds for a deployment, by a forwarder of its own.
 *
 *   forwards.ts  who is led to, and when    forwarder.ts process.ts build.ts  the forwarder as a process
 *   stored.ts    what is kept, its numbers  document.ts  what the two tell each other
 */
export { forwarderBuild } from "./build.ts";
export type { ForwardDocument, ForwardDocumentEntry, ForwardStatus, ForwardTarget } from "./document.ts";
export type { Forwarder } from "./forwarder.ts";
export { forwarderProcess } from "./process.ts";
export { createForwards, type ForwardSurroundings } from "./forwards.ts";
