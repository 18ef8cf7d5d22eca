/** The steps besides the proxy's and TLS's. Each is bounded, and rejects with a DialError or the signal's reason. */
import { lookup, type LookupAddress } from "node:dns";
import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { connect, isIP, type Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { bounded } from "./bounded.ts";
import { DialError } from "./reasons.ts";
import type { Endpoint } from "./target.ts";

export async function lookUp(
  host: string,
  whom: string,
  within: number,
  signal: AbortSignal | undefined,
): Promise<LookupAddress[]> {
  const family = isIP(host);
  if (family !== 0) return [{ address: host, family }];
  return bounded<LookupAddress[]>(
    { step: "dns", reason: "DNS_FAILED", what: `the name of ${whom} could not be looked up`, within, signal },
    (settle) => {
      lookup(host, { all: true }, (error, addresses) => {
        if (error === null && addresses.length > 0) return settle.resolve(addresses);
        const why =
          error?.code === "ENOTFOUND"
            ? "there is no such name"
            : `the name server fails (${error?.code ?? "no answer"})`;
        settle.reject(
          new DialError("dns", "DNS_FAILED", `${whom}: ${why}`, {
            remedy: "Look at the name's spelling and at this machine's name server, or set HTTPS_PROXY.",
            cause: error,
          }),
        );
      });
      return () => undefined; // a look-up cannot be taken back; its answer is dropped
    },
  );
}

/** One address after the other, as net does it: the next one is tried while a slow one is. */
export async function connectTcp(
  { host, port }: Endpoint,
  addresses: readonly LookupAddress[],
  whom: string,
  within: number,
  signal: AbortSignal | undefined,
  localAddress?: string,
): Promise<Socket> {
  return bounded(
    { step: "tcp", reason: "TCP_UNREACHABLE", what: `no connection to ${whom}`, within, signal },
    (settle) => {
      const socket = connect({
        host,
        port,
        noDelay: true,
        keepAlive: true,
        ...(localAddress === undefined ? {} : { localAddress }),
        lookup: (_, { all }, done) => {
          const [first] = addresses;
          if (all === true) done(null, [...addresses]);
          else done(null, first?.address ?? host, first?.family);
        },
      });
      socket.once("connect", () => {
        socket.off("error", failed);
        settle.resolve(socket);
      });
      const failed = (error: NodeJS.ErrnoException): void => {
        const refused = error.code === "ECONNREFUSED";
        settle.reject(
          new DialError(
            "tcp",
            refused ? "TCP_REFUSED" : "TCP_UNREACHABLE",
            refused
              ? `nothing listens at ${whom} (connection refused)`
              : `no way to ${whom} (${error.code ?? error.message})`,
            { remedy: "Look at the port, and at firewalls between; outbound TCP to it must be open.", cause: error },
          ),
        );
      };
      socket.once("error", failed);
      return () => socket.destroy();
    },
  );
}

/** Resolves when the server's SETTINGS have come: until then it may be anything that takes bytes. */
export async function openHttp2(
  socket: Socket,
  url: string,
  within: number,
  signal: AbortSignal | undefined,
): Promise<ClientHttp2Session> {
  const { origin, protocol } = new URL(url);
  const chosen = (socket as Partial<TLSSocket>).alpnProtocol;
  const unavailable = (why: string, cause?: unknown): DialError =>
    new DialError("http2", "HTTP2_UNAVAILABLE", `${origin} speaks no HTTP/2: ${why}`, {
      remedy:
        protocol === "http:"
          ? "Where the server speaks TLS, write https://; where a proxy is between, it must pass HTTP/2 on."
          : "Something between ends TLS and speaks HTTP/1.1 only; have it pass HTTP/2 on.",
      cause,
    });
  if (chosen === "http/1.1") {
    socket.destroy();
    throw unavailable("TLS chose http/1.1");
  }
  return bounded(
    { step: "http2", reason: "HTTP2_UNAVAILABLE", what: `no HTTP/2 SETTINGS from ${origin}`, within, signal },
    (settle) => {
      const session = connectHttp2(origin, { createConnection: () => socket });
      const failed = (error?: Error): void =>
        settle.reject(unavailable(error === undefined ? "the connection was closed" : error.message, error));
      const closed = (): void => failed();
      session.once("error", failed).once("close", closed);
      session.once("remoteSettings", () => {
        session.off("error", failed).off("close", closed);
        settle.resolve(session);
      });
      return () => session.destroy();
    },
  );
}
