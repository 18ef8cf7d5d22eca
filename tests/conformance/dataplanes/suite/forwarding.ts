/**
 * How requests and answers pass: headers, errors, timeouts, upgrades, and what attackers send.
 * Long because each is a few claims on one gateway, started once.
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { request } from "node:http";
import { connect, createServer, type Socket } from "node:net";
import type { DataPlaneClass } from "@bowline/agent-core";
import { askRaw } from "./client.ts";
import { startGateway, succeeded, type BackendInit, type Gateway, type RouteInit } from "./gateway.ts";
import { owned } from "./own.ts";
import { startUpstream, until, type Echo, type Upstream } from "./upstream.ts";

export function forwarding(dataPlane: DataPlaneClass): void {
  describe(`${dataPlane.name}: forwarding`, () => {
    const { ownUpstream } = owned();
    let gateway: Gateway;
    let echoing: Upstream;
    const cleanup = new AsyncDisposableStack();
    beforeAll(async () => {
      gateway = cleanup.use(await startGateway(dataPlane));
      echoing = cleanup.use(await startUpstream("echo"));
    });
    afterAll(() => cleanup.disposeAsync());

    let generation = 0;
    async function serve(
      url: string,
      route: Partial<RouteInit> = {},
      backend: Partial<BackendInit> = {},
    ): Promise<void> {
      generation += 1;
      const routes = [{ name: "r", backends: [{ backend: "main" }], ...route }];
      succeeded(
        await gateway.apply({ generation, routes, backends: [{ ...backend, name: "main", url } as BackendInit] }),
      );
    }

    test("the backend sees the client's host, its address and the way", async () => {
      await serve(echoing.url);
      const { headers } = (
        await gateway.ask("/", {
          host: "shop.test:81",
          headers: { "x-forwarded-for": "9.9.9.9", "x-forwarded-proto": "https", forwarded: "for=8.8.8.8" },
        })
      ).json() as unknown as Echo;
      expect(headers).toMatchObject({
        host: "shop.test:81",
        "x-forwarded-for": "9.9.9.9, 127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "shop.test:81",
        via: "1.1 bowline",
      });
      expect(headers).not.toHaveProperty("forwarded");
    });

    test("what is between two neighbours goes no further", async () => {
      await serve(echoing.url);
      const { headers } = (
        await gateway.ask("/", {
          headers: {
            connection: "close, x-secret, authorization",
            "x-secret": "1",
            authorization: "Bearer kept",
            "keep-alive": "timeout=5",
            "proxy-authorization": "Basic x",
            upgrade: "h2c",
          },
        })
      ).json() as unknown as Echo;
      for (const name of ["x-secret", "keep-alive", "proxy-authorization", "upgrade"]) {
        expect(headers).not.toHaveProperty(name);
      }
      expect(headers["authorization"]).toBe("Bearer kept");
    });

    test("repeated headers, status and reason come through as they are", async () => {
      const odd = await ownUpstream("odd", (_req, res) => {
        res.writeHead(299, "Fine Enough", [
          "Set-Cookie",
          "a=1",
          "Set-Cookie",
          "b=2",
          "X-Case",
          "Kept",
          "Connection",
          "x-hop",
          "X-Hop",
          "1",
        ]);
        res.end("body");
      });
      await serve(odd.url);
      const answer = await gateway.ask("/");
      expect(answer).toMatchObject({ status: 299, text: "body" });
      expect(answer.headers["set-cookie"]).toEqual(["a=1", "b=2"]);
      expect(answer.headers).not.toHaveProperty("x-hop");
    });

    test("a backend's path comes before the request's", async () => {
      await serve(`${echoing.url}/base/`);
      expect((await gateway.ask("/x?y")).json()).toMatchObject({ url: "/base/x?y" });
    });

    test("HEAD has the length and no body; 204 and 304 have neither", async () => {
      const upstream = await ownUpstream("plain", (req, res) => {
        const status = Number(req.url!.slice(1)) || 200;
        res.writeHead(status, status === 200 ? { "content-length": 5 } : {});
        res.end(status === 200 ? "hello" : undefined);
      });
      await serve(upstream.url);
      const head = await gateway.ask("/", { method: "HEAD" });
      expect(head).toMatchObject({ status: 200, text: "" });
      expect(head.headers["content-length"]).toBe("5");
      for (const status of [204, 304]) {
        const answer = await gateway.ask(`/${status}`);
        expect(answer).toMatchObject({ status, text: "" });
        expect(answer.headers).not.toHaveProperty("transfer-encoding");
      }
    });

    test("trailers pass both ways", async () => {
      const upstream = await ownUpstream("trailers", (req, res) => {
        req.resume();
        req.on("end", () => {
          res.writeHead(200, { trailer: "x-sum" });
          res.write("body");
          res.addTrailers({ "x-sum": String(req.trailers["x-from"]) });
          res.end();
        });
      });
      await serve(upstream.url);
      const raw = await askRaw(
        gateway.port,
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\nTrailer: x-from\r\n" +
          "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-from: client\r\n\r\n",
      );
      expect(raw).toMatch(/x-sum: client/i);
    });

    test("a client that expects 100 is told to go on when the backend says so", async () => {
      const upstream = await ownUpstream("careful", (req, res) => req.pipe(res));
      upstream.server.on("checkContinue", (req, res) => {
        if (req.headers["x-allowed"] === undefined) {
          res.writeHead(403).end();
          return;
        }
        res.writeContinue();
        req.pipe(res);
      });
      await serve(upstream.url);
      const expecting = async (headers: Record<string, string>): Promise<[boolean, number, string]> => {
        const req = request({
          port: gateway.port,
          method: "POST",
          agent: false,
          headers: { expect: "100-continue", "content-length": "4", ...headers },
        });
        let told = false;
        req.on("continue", () => {
          told = true;
          req.end("body");
        });
        req.flushHeaders();
        const [res] = (await once(req, "response")) as [import("node:http").IncomingMessage];
        let text = "";
        for await (const chunk of res) text += String(chunk);
        req.destroy();
        return [told, res.statusCode!, text];
      };
      expect(await expecting({ "x-allowed": "1" })).toEqual([true, 200, "body"]);
      expect(await expecting({})).toEqual([false, 403, ""]);
    });

    test("a backend that is gone answers 503, one that breaks off 502, both with a reason", async () => {
      const gone = await startUpstream("gone");
      await serve(gone.url);
      expect((await gateway.ask("/")).status).toBe(200);
      await gone[Symbol.asyncDispose]();
      const refused = await gateway.ask("/");
      expect(refused.status).toBe(503);
      expect(refused.json()).toMatchObject({ code: "unavailable", reason: "BACKEND_UNREACHABLE" });

      const breaking = await ownUpstream("breaking", (req) => req.socket.destroy());
      await serve(breaking.url);
      const broken = await gateway.ask("/", { method: "POST", body: "x" });
      expect(broken.status).toBe(502);
      expect(broken.json()).toMatchObject({ reason: "BACKEND_BROKEN" });
    });

    test("an answer that breaks off half-way reaches the client as broken, not as whole", async () => {
      const upstream = await ownUpstream("half", (_req, res) => {
        res.writeHead(200);
        res.write("half");
        setImmediate(() => res.socket?.destroy());
      });
      await serve(upstream.url);
      await expect(gateway.ask("/")).rejects.toThrow(/aborted|hang up|reset/i);
    });

    test("what is not HTTP is a 502", async () => {
      const server = createServer((socket) => {
        // The other side hangs up first; so be it.
        socket.on("error", () => {});
        socket.resume().end("SSH-2.0-OpenSSH\r\n");
      });
      server.listen(0, "127.0.0.1");
      await once(server, "listening");
      await serve(`http://127.0.0.1:${(server.address() as { port: number }).port}`);
      expect((await gateway.ask("/")).status).toBe(502);
      server.close();
      await once(server, "close");
    });

    test("a route's timeouts answer 504 and end the request to the backend", async () => {
      let ended = 0;
      const silent = await ownUpstream("silent", (req, res) => {
        res.on("close", () => (ended += 1));
        if (req.url === "/begun") res.write("begun");
      });
      // Long enough that the request is there before, whoever is busy.
      await serve(silent.url, { backendRequestTimeout: milliseconds(1_500) });
      expect((await gateway.ask("/")).json()).toMatchObject({ reason: "BACKEND_TIMEOUT" });
      await serve(silent.url, { requestTimeout: milliseconds(1_500) });
      const answer = await gateway.ask("/");
      expect(answer.status).toBe(504);
      expect(answer.json()).toMatchObject({ code: "deadline_exceeded", reason: "REQUEST_TIMEOUT" });
      await expect(gateway.ask("/begun")).rejects.toThrow();
      await until(() => ended === 3);
    });

    test("a client that leaves ends its request at the backend", async () => {
      let ended = false;
      const silent = await ownUpstream("silent", (_req, res) => res.on("close", () => (ended = true)));
      await serve(silent.url);
      const socket = connect(gateway.port, "127.0.0.1");
      socket.write("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
      await until(() => silent.seen.length === 1);
      socket.destroy();
      await until(() => ended);
    });

    test("a WebSocket passes both ways; other upgrades are ordinary requests", async () => {
      const upstream = await ownUpstream("ws");
      upstream.server.on("upgrade", (req, socket: Socket) => {
        const accept = createHash("sha1").update(
          `${req.headers["sec-websocket-key"]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`,
        );
        socket.write(
          "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
            `Sec-WebSocket-Accept: ${accept.digest("base64")}\r\n\r\n`,
        );
        socket.pipe(socket);
      });
      await serve(upstream.url, {}, {});
      const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/chat`);
      await once(socket, "open");
      const closed = once(socket, "close");
      socket.close();
      await closed;

      const h2c = await gateway.ask("/", { headers: { connection: "Upgrade", upgrade: "h2c" } });
      expect(h2c.status).toBe(200);
      expect((h2c.json() as unknown as Echo).headers).not.toHaveProperty("upgrade");
      const nowhere = await askRaw(gateway.port, `GET /.well-known/bowline/x HTTP/1.1\r\nHost: a\r\n${upgradeHeaders}`);
      expect(nowhere).toMatch(/^HTTP\/1.1 404 /);
    });

    test("an upgrade that the backend declines gets the backend's answer", async () => {
      const upstream = await ownUpstream("plain", (_req, res) => {
        res.writeHead(426);
        res.end("no");
      });
      await serve(upstream.url);
      const raw = await askRaw(gateway.port, `GET / HTTP/1.1\r\nHost: a\r\n${upgradeHeaders}`);
      expect(raw).toMatch(/^HTTP\/1.1 426 [\s\S]*no/);
    });

    test("requests that two parsers could read differently are refused and the connection ends", async () => {
      await serve(echoing.url);
      const before = echoing.seen.length;
      const bodies = {
        "both lengths": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "two lengths": "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd",
        "an odd length": "Content-Length: +4\r\n\r\nabcd",
        "an odd encoding": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "a folded header": "X-A: b\r\n c\r\nTransfer-Encoding\r\n : chunked\r\n\r\n",
        "a space before the colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "a bare line feed": "X-A: b\nContent-Length: 0\r\n\r\n",
        "two hosts": "Host: b\r\nConnection: close\r\n\r\n",
        "a NUL": "X-A: \0\r\n\r\n",
      };
      for (const [name, rest] of Object.entries(bodies)) {
        const raw = await askRaw(gateway.port, `POST / HTTP/1.1\r\nHost: a\r\n${rest}`);
        expect({ name, status: /^HTTP\/1.1 (\d+)/.exec(raw)?.[1] }).toEqual({ name, status: "400" });
        expect(raw.match(/HTTP\/1.1 /g)).toHaveLength(1);
      }
      expect(echoing.seen.length).toBe(before);
    });

    test("headers larger than the limit are answered 431, a missing host 400", async () => {
      await serve(echoing.url);
      expect((await gateway.ask("/", { headers: { "x-large": "x".repeat(20_000) } })).status).toBe(431);
      expect(await askRaw(gateway.port, "GET / HTTP/1.1\r\nConnection: close\r\n\r\n")).toMatch(/^HTTP\/1.1 400/);
      expect(await askRaw(gateway.port, "GET / HTTP/1.1\r\nHost: a/b\r\nConnection: close\r\n\r\n")).toMatch(
        /^HTTP\/1.1 400/,
      );
    });

    test("an absolute target decides the host", async () => {
      await serve(echoing.url, { hostnames: ["real.test"] });
      const raw = await askRaw(
        gateway.port,
        "GET http://real.test/x HTTP/1.1\r\nHost: other.test\r\nConnection: close\r\n\r\n",
      );
      expect(raw).toMatch(/^HTTP\/1.1 200 [\s\S]*"host":"real.test"/);
    });

    test("a backend that is this gateway itself ends as a loop, not in silence", async () => {
      await serve(`http://127.0.0.1:${gateway.port}`);
      const answer = await gateway.ask("/");
      expect(answer.status).toBe(508);
      expect(answer.json()).toMatchObject({ reason: "LOOP_DETECTED" });
    });
  });
}

function milliseconds(ms: number): { seconds: bigint; nanos: number } {
  return { seconds: BigInt(Math.floor(ms / 1_000)), nanos: (ms % 1_000) * 1_000_000 };
}

const upgradeHeaders =
  "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
