#!/usr/bin/env node
/**
 * The upstream of the example: a plain HTTP server without dependencies, for
 * Node 20 and newer. It knows nothing of Bowline.
 *
 *   node examples/hello/backend.mjs [--port 9101] [--lifeline-stdin]
 *
 *   GET /hello        text: who answers; ?name= says whom to greet
 *   GET /hello/time   JSON: the time
 *
 * It listens on 127.0.0.1 only. With `--lifeline-stdin` it exits when its
 * standard input closes, so that it never outlives whoever started it.
 */
import { createServer } from "node:http";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: { port: { type: "string" }, "lifeline-stdin": { type: "boolean", default: false } },
});
const port = Number(values.port ?? process.env.PORT ?? 9101);
if (!Number.isInteger(port) || port < 0 || port > 65535) {
  console.error(`hello backend: not a port: ${values.port ?? process.env.PORT}`);
  process.exit(2);
}

/** Longest name that is greeted; the rest is cut. */
const maxNameLength = 64;

const server = createServer((request, response) => {
  const url = new URL(request.url ?? "/", "http://backend");
  const answer = (status, type, body) => {
    response.writeHead(status, { "content-type": type, "cache-control": "no-store" });
    response.end(request.method === "HEAD" ? undefined : body);
  };

  if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("allow", "GET, HEAD");
    return answer(405, "text/plain; charset=utf-8", "Only GET and HEAD.\n");
  }
  switch (url.pathname) {
    case "/hello": {
      const name = (url.searchParams.get("name") ?? "world").slice(0, maxNameLength);
      return answer(200, "text/plain; charset=utf-8", `Hello, ${name}! Served through Bowline.\n`);
    }
    case "/hello/time":
      return answer(
        200,
        "application/json",
        `${JSON.stringify({ time: new Date().toISOString(), pid: process.pid })}\n`,
      );
    default:
      return answer(404, "application/json", `${JSON.stringify({ error: "not found", path: url.pathname })}\n`);
  }
});

server.on("error", (error) => {
  console.error(`hello backend: cannot listen on 127.0.0.1:${port}: ${error.message}`);
  process.exit(1);
});
server.listen(port, "127.0.0.1", () => {
  console.log(`hello backend: listening on http://127.0.0.1:${server.address().port}`);
});

let stopping = false;
function stop() {
  if (stopping) return;
  stopping = true;
  server.close(() => process.exit(0));
  server.closeIdleConnections();
  // A request that hangs must not keep it.
  setTimeout(() => process.exit(0), 1000).unref();
}

process.on("SIGTERM", stop);
process.on("SIGINT", stop);
if (values["lifeline-stdin"]) process.stdin.on("end", stop).on("error", stop).resume();
