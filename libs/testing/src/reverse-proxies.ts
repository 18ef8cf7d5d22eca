/**
 * Reverse proxies that break streams, on loopback and in this process:
 *
 *     startHttp1Proxy(url)      speaks HTTP/1.1 only, and closes on HTTP/2's preface
 *     startBufferingProxy(url)  speaks HTTP/2 (h2c) and HTTP/1.1, and passes a request on only when it is
 *                               whole, and an answer only when that is
 *
 * nginx.ts has real ones.
 */
import { createServer as createHttp1, type IncomingMessage, request, type ServerResponse } from "node:http";
import { createServer as createHttp2, type Http2ServerRequest, type Http2ServerResponse } from "node:http2";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { atEnd } from "./endings.ts";

export interface ReverseProxy {
  url: string;
  port: number;
  /** Requests that came, by `METHOD path`; `PRI *`: HTTP/2's preface, which was refused. */
  asked: string[];
  /** What requests were authorised with. */
  bearers: Set<string>;
  /** Stops listening and cuts what is open. */
  stop(): Promise<void>;
}

type Request = IncomingMessage | Http2ServerRequest;
type Response = ServerResponse | Http2ServerResponse;

/** `cutAfterMs`: no request may take longer. */
export const startHttp1Proxy = (upstream: string, { cutAfterMs = 0 } = {}): Promise<ReverseProxy> =>
  startProxy(upstream, false, cutAfterMs);
export const startBufferingProxy = (upstream: string): Promise<ReverseProxy> => startProxy(upstream, true, 0);

async function startProxy(upstream: string, http2: boolean, cutAfterMs: number): Promise<ReverseProxy> {
  const asked: string[] = [];
  const bearers = new Set<string>();
  const sockets = new Set<Socket>();
  const pass = (from: Request, to: Response): void => {
    asked.push(`${from.method} ${from.url?.split("?")[0]}`);
    if (from.headers.authorization !== undefined) bearers.add(from.headers.authorization);
    void passWhole(upstream, from, to as ServerResponse);
    if (cutAfterMs === 0) return;
    const late = setTimeout(() => to.destroy(), cutAfterMs);
    to.once("close", () => clearTimeout(late));
  };
  const overHttp1 = createHttp1(pass);
  const overHttp2 = createHttp2(pass);
  overHttp2.on("sessionError", () => undefined); // cut at the end of the test
  const tcp = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined).once("close", () => sockets.delete(socket));
    socket.once("data", (first: Buffer) => {
      const preface = first.subarray(0, 3).toString("latin1") === "PRI";
      if (preface && !http2) {
        asked.push("PRI *");
        return socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
      }
      socket.pause();
      socket.unshift(first);
      (preface ? overHttp2 : overHttp1).emit("connection", socket);
      if (!preface) socket.resume();
      return undefined;
    });
  });
  await new Promise<void>((resolve) => tcp.listen(0, "127.0.0.1", resolve));
  const stop = (): Promise<void> =>
    new Promise((resolve) => {
      for (const socket of sockets) socket.destroy();
      tcp.close(() => resolve());
    });
  atEnd(stop);
  const { port } = tcp.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, port, asked, bearers, stop };
}

/** Headers of one connection, and HTTP/2's own. */
const ofConnection = new Set(["connection", "keep-alive", "transfer-encoding", "te", "upgrade"]);

async function passWhole(upstream: string, from: Request, to: ServerResponse): Promise<void> {
  const body = await whole(from);
  if (body === undefined) return;
  const kept = Object.entries(from.headers).filter(([name]) => !name.startsWith(":") && !ofConnection.has(name));
  const headers = { host: from.headers[":authority"] ?? from.headers.host, ...Object.fromEntries(kept) };
  const options = {
    method: from.method ?? "GET",
    headers: { ...headers, "content-length": body.length },
    agent: false,
  };
  const call = request(new URL(from.url ?? "/", upstream), options as object, (answer) => {
    void whole(answer).then((bytes) => {
      if (bytes === undefined) return to.destroy();
      const passed = Object.entries(answer.headers).filter(([name]) => !ofConnection.has(name));
      to.writeHead(answer.statusCode ?? 502, Object.fromEntries(passed));
      return to.end(bytes);
    });
  });
  call.on("error", () => {
    if (!to.headersSent) to.writeHead(502);
    to.end();
  });
  to.once("close", () => call.destroy());
  call.end(body);
}

/** Undefined where it was cut before its end. */
function whole(message: Request): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    message.on("data", (chunk: Buffer) => chunks.push(chunk));
    message.once("end", () => resolve(Buffer.concat(chunks)));
    message.once("error", () => resolve(undefined)).once("close", () => resolve(undefined));
  });
}
