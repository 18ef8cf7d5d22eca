/** What nobody should send: the data plane answers or closes, and serves everybody else on. */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import fc from "fast-check";
import type { DataPlaneClass } from "@bowline/agent-core";
import { askRaw } from "./client.ts";
import { dataPlaneId, startGateway, succeeded, type Gateway } from "./gateway.ts";
import { startUpstream, type Upstream } from "./upstream.ts";

export function robustness(dataPlane: DataPlaneClass): void {
  describe(`${dataPlane.name}: robustness`, () => {
    let gateway: Gateway;
    let sound: Upstream;
    /** What the odd backend answers next, byte for byte. */
    let oddAnswer = "";
    const cleanup = new AsyncDisposableStack();
    beforeAll(async () => {
      gateway = cleanup.use(await startGateway(dataPlane));
      sound = cleanup.use(await startUpstream("sound"));
      const odd = createServer((socket) => {
        socket.on("error", () => {});
        socket.once("data", () => socket.end(oddAnswer, "latin1"));
        socket.resume();
      });
      cleanup.defer(async () => {
        odd.close();
        await once(odd, "close");
      });
      odd.listen(0, "127.0.0.1");
      await once(odd, "listening");
      const route = (name: string) => ({
        name,
        matches: [{ path: { value: `/${name}` } }],
        backends: [{ backend: name }],
      });
      succeeded(
        await gateway.apply({
          routes: [route("sound"), route("odd")],
          backends: [
            { name: "sound", url: sound.url },
            { name: "odd", url: `http://127.0.0.1:${(odd.address() as AddressInfo).port}` },
          ],
        }),
      );
    });
    afterAll(() => cleanup.disposeAsync());

    async function servesOn(process: number): Promise<void> {
      expect((await gateway.ask("/sound")).json()).toMatchObject({ upstream: "sound" });
      expect(gateway.runtime.processId(dataPlaneId)).toBe(process);
      expect(gateway.runtime.output(dataPlaneId)).not.toContain("a request failed");
    }

    test("odd answers of a backend reach the client as an error or as they are, and nobody else", async () => {
      const process = gateway.runtime.processId(dataPlaneId);
      for (const answer of [
        "",
        "HTTP/1.1 099 Low\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 999 High\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 \xff\xfe\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-A: \x01\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
        `HTTP/1.1 200 OK\r\nX-Large: ${"x".repeat(100_000)}\r\n\r\n`,
        "HTTP/1.0 200 OK\r\n\r\nuntil the end",
      ]) {
        oddAnswer = answer;
        for (const extra of ["", "Upgrade: websocket\r\nConnection: Upgrade\r\n"]) {
          const connection = extra === "" ? "Connection: close\r\n" : "";
          await askRaw(gateway.port, `GET /odd HTTP/1.1\r\nHost: a\r\n${connection}${extra}\r\n`);
        }
      }
      await servesOn(process);
    });

    test("odd bytes of a client are answered or cut off, and nobody else notices", async () => {
      const process = gateway.runtime.processId(dataPlaneId);
      const piece = fc.oneof(
        fc.constantFrom(
          "GET",
          "POST",
          "CONNECT",
          "PRI",
          " ",
          "/sound",
          "*",
          "http://",
          "?",
          "#",
          "%",
          "\r\n",
          "\n",
          "\0",
        ),
        fc.constantFrom("HTTP/1.1\r\n", "HTTP/1.0\r\n", "HTTP/2.0\r\n\r\n", "Host: a\r\n", "Host:\r\n", ": x\r\n"),
        fc.constantFrom(
          "Transfer-Encoding: chunked\r\n",
          "Content-Length: 3\r\n",
          "Expect: 100-continue\r\n",
          "\r\n\r\n",
        ),
        fc.constantFrom(
          "Upgrade: websocket\r\n",
          "Connection: Upgrade\r\n",
          "Via: ,,,\r\n",
          "Origin: x\r\n",
          "TE: trailers\r\n",
        ),
        fc.string({ unit: "binary", maxLength: 20 }),
      );
      await fc.assert(
        fc.asyncProperty(fc.array(piece, { maxLength: 12 }), async (pieces) => {
          // What is sent after it ends the connection whatever came before.
          await askRaw(gateway.port, `${pieces.join("")}\r\n\r\n\r\n\0\r\n\r\n`, 2_000);
        }),
        { numRuns: 200, seed: 7 },
      );
      await servesOn(process);
    });

    test("a connection that sends its headers for ever is one among many", async () => {
      const process = gateway.runtime.processId(dataPlaneId);
      const slow = Array.from({ length: 200 }, () => askRaw(gateway.port, "GET /sound HTTP/1.1\r\nHost: a\r\nX-", 300));
      await servesOn(process);
      await Promise.all(slow);
    });
  });
}
