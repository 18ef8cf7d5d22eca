/**
 * WebSockets: the upgrade is passed on, then bytes go both ways until either
 * side ends. Other upgrades never come here (see listener.ts): an HTTP/2 upgrade
 * would let requests past the routes.
 */
import { request, ServerResponse, type IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { answer, type AnswerReason } from "./answers.ts";
import { defaultBackendTimeoutMs, maxResponseHeaderBytes, reasonOf } from "./forward.ts";
import { forBackend, onwardHeaders, returnHeaders } from "./headers.ts";
import type { Forwarding } from "./plan.ts";

/** An answer on a connection that asked for an upgrade and does not get it. The connection ends with it. */
export function refusing(req: IncomingMessage, socket: Duplex): ServerResponse {
  const res = new ServerResponse(req);
  res.shouldKeepAlive = false;
  res.assignSocket(socket as never);
  res.once("finish", () => {
    res.detachSocket(socket as never);
    socket.end();
  });
  return res;
}

/** `port` is the listener's. Ends by itself; the socket's `close` tells when. */
export function forwardUpgrade(
  req: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  plan: Forwarding,
  port: number,
): void {
  const { route } = plan.entry;
  const outgoing = request({
    ...plan.backend.pool.options(true),
    method: req.method!,
    path: plan.backend.basePath + plan.target,
    headers: forBackend(
      onwardHeaders(req, {
        host: plan.host,
        originalHost: plan.originalHost,
        port,
        changes: route.requestHeaders,
        upgrade: "websocket",
      }),
      plan.backend.secretHeaders,
    ),
    maxHeaderSize: maxResponseHeaderBytes,
  });
  let ended = false;
  const timeoutMs = Math.min(
    route.backendTimeoutMs ?? defaultBackendTimeoutMs,
    route.requestTimeoutMs ?? Number.POSITIVE_INFINITY,
  );
  const timer = setTimeout(() => fail("BACKEND_TIMEOUT"), timeoutMs);

  socket.once("close", () => {
    settle();
    outgoing.destroy();
  });
  outgoing.once("error", (error) => fail(reasonOf(error)));
  outgoing.once("close", () => fail("BACKEND_BROKEN"));

  outgoing.once("upgrade", (response, upstream, upstreamHead) => {
    settle();
    const lines = returnHeaders(response, route.responseHeaders, undefined, []);
    lines.push("Connection", "Upgrade", "Upgrade", "websocket");
    socket.write(`HTTP/1.1 101 Switching Protocols\r\n${headerBlock(lines)}\r\n`, "latin1");
    if (upstreamHead.length > 0) socket.write(upstreamHead);
    if (head.length > 0) upstream.write(head);
    join(socket, upstream);
  });

  outgoing.once("response", (response) => {
    settle();
    const res = refusing(req, socket);
    const headers = returnHeaders(response, route.responseHeaders, undefined, plan.cors ?? []);
    try {
      res.writeHead(response.statusCode!, [...headers, "Connection", "close"]);
    } catch {
      // As in forward.ts: nothing that could be passed on.
      socket.destroy();
      return;
    }
    response.pipe(res);
    response.once("error", () => socket.destroy());
  });

  outgoing.end();

  function settle(): void {
    ended = true;
    clearTimeout(timer);
  }

  function fail(reason: AnswerReason): void {
    if (ended) return;
    settle();
    answer(refusing(req, socket), reason, ["Connection", "close"]);
    outgoing.destroy();
  }
}

function headerBlock(headers: readonly string[]): string {
  let block = "";
  for (let i = 0; i < headers.length; i += 2) block += `${headers[i]}: ${headers[i + 1]}\r\n`;
  return block;
}

function join(a: Duplex, b: Duplex): void {
  for (const [from, to] of [
    [a, b],
    [b, a],
  ] as const) {
    from.pipe(to);
    from.on("error", () => to.destroy());
    from.once("close", () => to.destroy());
  }
}
