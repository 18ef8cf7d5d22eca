/**
 * The steps in order. A dial that fails, is aborted or is not wanted any more
 * leaves no socket behind.
 */
import type { ClientHttp2Session } from "node:http2";
import type { Socket } from "node:net";
import type { TLSSocket } from "node:tls";
import { proxyFor } from "./proxies.ts";
import { DialError, type DialStep } from "./reasons.ts";
import { connectTcp, lookUp, openHttp2 } from "./steps.ts";
import { authorityOf, type DialTarget, endpointOf, stepTimeoutMs } from "./target.ts";
import { openTls, type TlsFacts } from "./tls.ts";
import { openTunnel } from "./tunnel.ts";

/** A step that worked. `dns` and `tcp` are about the proxy where there is one: it looks the server's name up. */
export type StepReport = { tookMs: number } & (
  | { step: "dns"; host: string; addresses: readonly string[] }
  | { step: "tcp"; address: string; port: number }
  /** `proxy` is `host:port`, or undefined where the server is dialled without. */
  | { step: "proxy"; proxy: string | undefined }
  | ({ step: "tls" } & TlsFacts)
  | { step: "http2" }
);

export interface DialOptions {
  /** Ends a dial that is under way. */
  signal?: AbortSignal | undefined;
  /** Told of each step that worked. */
  report?: ((step: StepReport) => void) | undefined;
}

/**
 * Dials up to TLS (https) or TCP (http). `protocol` is what will be spoken:
 * with `h2` a server that speaks no HTTP/2 is HTTP2_UNAVAILABLE. With
 * `trust: "anyone"` no certificate is checked: only for a look at one.
 */
export async function dialSocket(
  target: DialTarget,
  options: DialOptions & { protocol: "h2" | "http/1.1"; trust?: "checked" | "anyone" },
): Promise<Socket> {
  const url = new URL(target.url);
  const server = endpointOf(url);
  const within = target.stepTimeoutMs ?? stepTimeoutMs;
  const { signal } = options;
  const step = stepper(options);
  const proxy = proxyOf(target);
  const dialled = proxy ?? server;
  const whom = proxy === undefined ? authorityOf(server) : `the proxy ${authorityOf(proxy)}`;

  const addresses = await step("dns", async () => {
    const found = await lookUp(dialled.host, whom, within, signal);
    return [found, { step: "dns", host: dialled.host, addresses: found.map(({ address }) => address) }];
  });
  let socket: Socket = await step("tcp", async () => {
    const connected = await connectTcp(dialled, addresses, whom, within, signal, target.localAddress);
    return [connected, { step: "tcp", address: connected.remoteAddress ?? "", port: dialled.port }];
  });
  try {
    socket = await step("proxy", async () => {
      const tunnel = proxy === undefined ? socket : await openTunnel(socket, proxy, server, target, within, signal);
      return [tunnel, { step: "proxy", proxy: proxy === undefined ? undefined : authorityOf(proxy) }];
    });
    if (url.protocol !== "https:") return socket;
    return await step<TLSSocket>("tls", async () => {
      const { protocol, trust = "checked" } = options;
      const [secure, facts] = await openTls(socket, server, { ...target, protocol, trust }, within, signal);
      return [secure, { step: "tls", ...facts }];
    });
  } catch (error) {
    socket.destroy();
    throw error;
  }
}

/** Dials up to the server's HTTP/2 SETTINGS. The session is the caller's to close. */
export async function dialHttp2(target: DialTarget, options: DialOptions = {}): Promise<ClientHttp2Session> {
  const socket = await dialSocket(target, { ...options, protocol: "h2" });
  const within = target.stepTimeoutMs ?? stepTimeoutMs;
  return stepper(options)("http2", async () => [
    await openHttp2(socket, target.url, within, options.signal),
    { step: "http2" },
  ]);
}

type Told<Step = StepReport> = Step extends StepReport ? Omit<Step, "tookMs"> : never;

function stepper({ signal, report }: DialOptions) {
  return async <T>(_: DialStep, take: () => Promise<[T, Told]>): Promise<T> => {
    signal?.throwIfAborted();
    const startedAt = performance.now();
    const [result, told] = await take();
    report?.({ ...told, tookMs: performance.now() - startedAt } as StepReport);
    return result;
  };
}

function proxyOf(target: DialTarget) {
  try {
    return proxyFor(target.url, target.proxies);
  } catch (error) {
    throw new DialError("proxy", "PROXY_REFUSED", (error as Error).message, { cause: error });
  }
}
