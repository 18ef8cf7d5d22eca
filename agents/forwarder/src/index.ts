/**
 * The forwarder: a process that holds the published ports of one deployment.
 *
 *   program.ts   files and signals       serving.ts  a document in force: ports opened and closed
 *   tcp.ts  udp.ts  what passes          choice.ts   to whom     relays.ts  what is open, and its drain
 *
 * main.ts starts it; agents do so by its path (agents/core/src/runtimes/forwards).
 */
export type { ForwardDocument, ForwardDocumentEntry, ForwardStatus } from "@bowline/agent-core/forwards";
export { Choice } from "./choice.ts";
export { Relays } from "./relays.ts";
export { Serving } from "./serving.ts";
