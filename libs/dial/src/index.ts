/**
 * How agents and the CLI reach a server, step by step, with a stable reason
 * for each way in which that fails. The only place that opens connections to a
 * control plane.
 *
 *     dialHttp2(target)     a connected HTTP/2 session whose SETTINGS have come
 *     dialSocket(target)    the byte stream below it, TLS done where it is https
 *     dialledAgent(url, target)  the same for node:http and node:https (HTTP/1.1)
 *     pinAuthority(…)       the CA with a fingerprint, from the server's own chain
 *
 * Each rejects with a DialError: its `step` is the one that failed, its
 * `reason` one of reasons.ts. `options.report` is told of each step that
 * worked, in order: dns, tcp, proxy, tls (https only), http2.
 *
 *   target.ts    what is dialled, with which trust     dial.ts     the steps in order
 *   reasons.ts   why it was not reached                steps.ts, tunnel.ts, tls.ts  each step
 *   proxies.ts   HTTPS_PROXY, HTTP_PROXY, NO_PROXY     tls-errors.ts  what TLS says, in words
 *   agents.ts    HTTP/1.1 over the same steps          pin.ts, certificates.ts  fingerprints
 */
export * from "./agents.ts";
export * from "./certificates.ts";
export * from "./dial.ts";
export * from "./pin.ts";
export * from "./proxies.ts";
export * from "./reasons.ts";
export * from "./target.ts";
export type { TlsFacts } from "./tls.ts";
