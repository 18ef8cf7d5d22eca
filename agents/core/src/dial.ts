/**
 * Where the agent dials and whom it trusts there. The steps of a dial are
 * @bowline/dial's; this says to what, anew for each dial, so that renewed
 * files count.
 *
 * T1: a CA that came by its fingerprint is kept only after a dial that trusted
 *     nobody else has worked; from then on every dial is checked against it.
 * T2: it is trusted for the server at which it was seen, and no other.
 */
import { X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readPrivateFile, writePrivateFile } from "@bowline/auth";
import {
  DialError,
  dialHttp2,
  dialledAgent,
  type DialOptions,
  type DialTarget,
  fingerprintOf,
  pinAuthority,
} from "@bowline/dial";
import { type AgentTransport, createAgentTransport, createPollTransport } from "@bowline/session";
import type { AgentConfig } from "./config.ts";
import type { TransportKind } from "./transports.ts";

export type DiallerConfig = Pick<
  AgentConfig,
  "server" | "dataDir" | "caFile" | "caFingerprint" | "clientCertificate" | "proxies"
>;

export interface Dialler {
  /** What is dialled now. Rejects with a DialError where a CA is to be found by its fingerprint and is not. */
  target(signal?: AbortSignal): Promise<DialTarget>;
  /** The same, and nothing is kept; `report` is told of the steps of a look for the CA. */
  look(report: DialOptions["report"]): Promise<DialTarget>;
  /** Connections for a stream and its calls, or for polls; nothing is dialled before the first of them. */
  dial(kind: TransportKind): AgentTransport;
  /** Connections for one tunnel; `callEnded` is told of the end of a stream, also where nobody reads what came. */
  dialTunnel(kind: TransportKind, callEnded: () => void): AgentTransport;
}

/** The CA that came by its fingerprint, in the data folder. */
interface Pinned {
  /** Origin of the server that showed it. */
  server: string;
  /** PEM. */
  ca: string;
}

export function createDialler(config: DiallerConfig, log: { info(fields: object, message: string): void }): Dialler {
  const { server, caFile, caFingerprint, proxies } = config;
  const { origin, protocol } = new URL(server);
  const pinFile = join(config.dataDir, "server-ca.json");

  async function targetOf(options: DialOptions, keeps: boolean): Promise<DialTarget> {
    if (protocol !== "https:") return { url: server, proxies };
    const plain: DialTarget = { url: server, proxies, clientCertificate: await readCertificate() };
    if (caFile !== undefined) return { ...plain, ca: await readPem(caFile) };
    const pinned = await readPin();
    if (caFingerprint === undefined) return { ...plain, ca: pinned?.ca };
    if (pinned !== undefined && fingerprintOf(new X509Certificate(pinned.ca)) === caFingerprint) {
      return { ...plain, ca: pinned.ca };
    }
    const ca = await pinAuthority(plain, caFingerprint, options);
    if (!keeps) return { ...plain, ca };
    await writePrivateFile(pinFile, `${JSON.stringify({ server: origin, ca } satisfies Pinned, null, 2)}\n`); // T1
    log.info({ fingerprint: caFingerprint, file: pinFile }, "the server's CA has the given fingerprint; kept");
    return { ...plain, ca };
  }

  const target = (signal?: AbortSignal) => targetOf({ signal }, true);

  async function readCertificate(): Promise<DialTarget["clientCertificate"]> {
    const { clientCertificate: files } = config;
    return files && { cert: await readPem(files.cert), key: await readPem(files.key) };
  }

  async function readPin(): Promise<Pinned | undefined> {
    const text = await readPrivateFile(pinFile);
    if (text === undefined) return undefined;
    try {
      const pinned = JSON.parse(text) as Pinned;
      void new X509Certificate(pinned.ca);
      return pinned.server === origin ? pinned : undefined; // T2
    } catch {
      // Trusting the system's authorities instead would be less than what was decided once.
      throw new DialError("tls", "TLS_FAILED", `${pinFile} is not the CA that was kept`, {
        remedy: "Remove it and start the agent with --ca-fingerprint or --ca-file.",
      });
    }
  }

  const dial = async (signal: AbortSignal) => dialHttp2(await target(signal), { signal });
  const stream = () => createAgentTransport({ url: server, dial });
  const poll = () => createPollTransport({ url: server, agent: dialledAgent(server, () => target()), stream });
  return {
    target,
    look: (report) => targetOf({ report }, false),
    dial: (kind) => (kind === "poll" ? poll() : stream()),
    dialTunnel: (kind, callEnded) =>
      kind === "poll" ? poll() : createAgentTransport({ url: server, dial, callEnded }),
  };
}

async function readPem(file: string): Promise<string> {
  return readFile(file, "utf8").catch((error: unknown) => {
    throw new DialError("tls", "TLS_FAILED", `${file} cannot be read: ${(error as Error).message}`, { cause: error });
  });
}
