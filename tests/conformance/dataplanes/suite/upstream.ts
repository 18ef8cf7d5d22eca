/** Real upstreams on loopback. */
import { once } from "node:events";
import { createServer, type IncomingMessage, type RequestListener, type Server } from "node:http";
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
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

/** Waits until it holds; a condition that never does fails the test. */
export async function until(holds: () => boolean, withinMs = 10_000): Promise<void> {
  const end = performance.now() + withinMs;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`not within ${withinMs} ms: ${String(holds)}`);
    await pause(10);
  }
}
