/**
 * What an agent and a forwarder tell each other: two files in a folder that is
 * theirs alone.
 *
 *   config.json   written by the agent, atomically; SIGHUP says that it is new
 *   status.json   written by the forwarder, atomically
 *
 * A file and a signal, not a socket: what is in force is on disk for the next
 * start, no path is too long, and the same goes into a container. There the
 * engine carries the file in, and what would be status.json is a line of output.
 */

/** Address of one port of one instance. */
export interface ForwardTarget {
  /** `<slot>@<host>:<port>`: an instance that has another address is another target. */
  key: string;
  host: string;
  port: number;
}

export interface ForwardDocumentEntry {
  name: string;
  protocol: "tcp" | "udp";
  address: string;
  port: number;
  drainMs: number;
  /** `name` keeps a backend's place in the choice; weights are 1 or more. */
  backends: { name: string; weight: number; targets: ForwardTarget[] }[];
}

/** config.json. */
export interface ForwardDocument {
  /** Another one for each document; a later one is greater. */
  revision: number;
  forwards: ForwardDocumentEntry[];
  /** Keys of targets that get no new connections and keep those that they have. All others that no backend names are drained. */
  resting: string[];
}

/** status.json, or a line of output. */
export interface ForwardStatus {
  pid: number;
  startTime: string;
  bootId: string;
  /** What its agent called this version when it started it (build.ts). */
  build: string;
  /** Of the document in force; 0: none yet. */
  revision: number;
  /** A document that is not taken, and why: the one before goes on. */
  refused?: { revision: number; forward: string; code: string; message: string };
  /** Ports of the document in force that are not open, by forward; tried again, at last every second. */
  closed: { forward: string; code: string }[];
  /** Keys of targets that are drained and still have connections. */
  draining: string[];
}

export const forwardFiles = { config: "config.json", status: "status.json", log: "output.log" } as const;
