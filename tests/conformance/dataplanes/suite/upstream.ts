/** Real upstreams on loopback. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type RequestListener, type Server } from "node:http";
import type { Socket } from "node:net";
import { setTimeout as pause } from "node:timers/promises";

export interface Upstream extends AsyncDisposable {
  server: Server;
  port: number;
  url: string;
  /** Heads of the requests that came, oldest first. */
  seen: { method: string; url: string; headers: IncomingMessage["headers"] }[];
  /** Bodies that the default upstream has read to their end. */
  bodies: string[];
}

/** What the default upstream says about a request. */
export interface Echo {
  upstream: string;
  method: string;
  url: string;
  headers: IncomingMessage["headers"];
  rawHeaders: string[];
  body: string;
}

/** Without `listener`: answers 200 with an Echo. */
export async function startUpstream(name: string, listener?: RequestListener): Promise<Upstream> {
  const seen: Upstream["seen"] = [];
  const bodies: string[] = [];
  const server = createServer((req, res) => {
    seen.push({ method: req.method!, url: req.url!, headers: req.headers });
    if (listener !== undefined) {
      listener(req, res);
      return;
    }
    let body = "";
    req.setEncoding("utf8").on("data", (chunk: string) => (body += chunk));
    req.on("end", () => {
      const { method, url, headers, rawHeaders } = req;
      bodies.push(body);
      res.setHeader("content-type", "application/json");
      res.end(JSON.stringify({ upstream: name, method, url, headers, rawHeaders, body }));
    });
  });
  const sockets = new Set<Socket>();
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    // An upgraded one is no longer the server's: a reset would be nobody's.
    socket.on("error", () => {});
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return {
    server,
    port,
    url: `http://127.0.0.1:${port}`,
    seen,
    bodies,
    async [Symbol.asyncDispose]() {
      server.close();
      const ends = [...sockets].map((socket) => once(socket.destroy(), "close"));
      await Promise.all([once(server, "close"), ...ends]);
    },
  };
}

/** Waits until it holds; a condition that never does fails the test. */
export async function until(holds: () => boolean, withinMs = 30_000): Promise<void> {
  const end = performance.now() + withinMs;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`not within ${withinMs} ms: ${String(holds)}`);
    await pause(10);
  }
}
