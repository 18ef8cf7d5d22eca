/** Streams, generations that take over under load, failing alone, and ends. */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { Agent, request, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import type { DataPlaneClass } from "@bowline/agent-core";
import { dataPlaneId, startGateway, succeeded, type Gateway, type Served } from "./gateway.ts";
import { owned } from "./own.ts";
import { startUpstream, until, type Upstream } from "./upstream.ts";

const megabyte = 1024 * 1024;

export function load(dataPlane: DataPlaneClass): void {
  describe(`${dataPlane.name}: load`, () => {
    const { ownGateway, ownUpstream } = owned();
    let gateway: Gateway;
    let one: Upstream;
    let two: Upstream;
    const cleanup = new AsyncDisposableStack();
    beforeAll(async () => {
      gateway = cleanup.use(await startGateway(dataPlane));
      one = cleanup.use(await startUpstream("one"));
      two = cleanup.use(await startUpstream("two"));
    });
    afterAll(() => cleanup.disposeAsync());

    const to = (id: string, generation: number, url: string): Served => ({
      id,
      generation,
      routes: [{ name: "r", matches: [{ path: { value: `/${id}` } }], backends: [{ backend: "main" }] }],
      backends: [{ name: "main", url }],
    });

    async function residentBytes(): Promise<number> {
      const status = await readFile(`/proc/${gateway.runtime.processId(dataPlaneId)}/status`, "utf8");
      return Number(/VmRSS:\s+(\d+) kB/.exec(status)![1]) * 1024;
    }

    test("100 MB up and down pass without being held", async () => {
      const chunk = Buffer.alloc(megabyte, "x");
      const bulk = await ownUpstream("bulk", (req, res) => {
        let bytes = 0;
        req.on("data", (data: Buffer) => (bytes += data.length));
        req.on("end", () => {
          res.writeHead(200, { "x-received": String(bytes) });
          send(res, chunk, 100);
        });
      });
      succeeded(await gateway.apply(to("bulk", 1, bulk.url)));
      const before = await residentBytes();
      let most = 0;
      const req = request({ port: gateway.port, path: "/bulk", method: "POST", agent: false, headers: { host: "a" } });
      send(req, chunk, 100);
      const [res] = (await once(req, "response")) as [IncomingMessage];
      let bytes = 0;
      for await (const data of res as AsyncIterable<Buffer>) {
        bytes += data.length;
        if (bytes % (10 * megabyte) < data.length) most = Math.max(most, await residentBytes());
      }
      expect(res.headers["x-received"]).toBe(String(100 * megabyte));
      expect(bytes).toBe(100 * megabyte);
      expect(most - before).toBeLessThan(80 * megabyte);
    });

    test("a slow reader holds the backend back", async () => {
      const chunk = Buffer.alloc(megabyte, "x");
      let sent = 0;
      const bulk = await ownUpstream("bulk", (_req, res) => {
        void (async () => {
          res.on("error", () => {}).setMaxListeners(0);
          for (sent = 0; sent < 200 && !res.destroyed; sent += 1) {
            if (!res.write(chunk)) await Promise.race([once(res, "drain"), once(res, "close")]);
          }
          res.end();
        })();
      });
      succeeded(await gateway.apply(to("slow", 1, bulk.url)));
      const socket = connect(gateway.port, "127.0.0.1");
      socket.write("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
      await once(socket, "readable");
      let last = -1;
      // Nothing is read: the buffers fill, then the backend stands still.
      await until(() => {
        const still = sent === last;
        last = sent;
        return still && sent > 0;
      });
      expect(sent).toBeLessThan(100);
      socket.destroy();
    });

    test("a mirror that reads nothing does not slow the request down", async () => {
      const deaf = await ownUpstream("deaf", () => {
        // Never reads the body, never answers.
      });
      const main = await ownUpstream("main", (req, res) => {
        req.resume();
        req.on("end", () => res.end("done"));
      });
      succeeded(
        await gateway.apply({
          id: "mirrored",
          generation: 1,
          routes: [
            {
              name: "r",
              matches: [{ path: { value: "/mirrored" } }],
              backends: [{ backend: "main" }],
              filters: [{ kind: { case: "mirror", value: { backend: "deaf" } } }],
            },
          ],
          backends: [
            { name: "main", url: main.url },
            { name: "deaf", url: deaf.url },
          ],
        }),
      );
      const body = Buffer.alloc(50 * megabyte, "x");
      expect((await gateway.ask("/mirrored", { method: "POST", body })).text).toBe("done");
    });

    test("generations take over under load without one failed request", async () => {
      const slow = await ownUpstream("slow", (_req, res) => {
        res.write("a");
        setTimeout(() => res.end("b"), 5);
      });
      succeeded(await gateway.apply(to("moving", 1, one.url)));
      const agent = new Agent({ keepAlive: true, maxSockets: 16 });
      let asked = 0;
      let stop = false;
      const failures: string[] = [];
      const client = async (): Promise<void> => {
        while (!stop) {
          asked += 1;
          const problem = await askKept(agent, gateway.port, "/moving");
          if (problem !== undefined) failures.push(problem);
        }
      };
      const clients = Array.from({ length: 16 }, client);
      let before = to("moving", 1, one.url);
      for (let generation = 2; generation <= 40; generation += 1) {
        const url = [one.url, two.url, slow.url][generation % 3]!;
        const next = to("moving", generation, url);
        succeeded(await gateway.apply(next, before));
        before = next;
        await until(
          (
            (mark) => () =>
              asked > mark + 30
          )(asked),
        );
      }
      stop = true;
      await Promise.all(clients);
      agent.destroy();
      expect(failures).toEqual([]);
      expect(asked).toBeGreaterThan(1_000);
    });

    test("a request in flight ends on the generation and the backend that it began with", async () => {
      let finish: () => void = () => {};
      const held = await ownUpstream("held", (_req, res) => {
        res.write("first,");
        finish = () => res.end("last");
      });
      succeeded(await gateway.apply(to("held", 1, held.url)));
      const asking = gateway.ask("/held");
      await until(() => held.seen.length === 1);
      succeeded(await gateway.apply(to("held", 2, two.url), to("held", 1, held.url)));
      expect((await gateway.ask("/held")).json()).toMatchObject({ upstream: "two" });
      succeeded(await gateway.remove("held"));
      expect((await gateway.ask("/held")).status).toBe(404);
      finish();
      expect((await asking).text).toBe("first,last");
    });

    test("what is wrong with one deployment disturbs no other, not even after a crash", async () => {
      succeeded(await gateway.apply(to("good", 1, one.url)));
      const bad = to("bad", 1, one.url);
      bad.routes[0]!.backends = [{ backend: "nobody" }];
      expect(await gateway.apply(bad)).toMatchObject({ reason: "ROUTES_REFUSED" });
      const volume = (await gateway.runtime.volumePath(dataPlaneId, "config"))!;
      await writeFile(join(volume, "routes", "broken.json"), '{"format":1,"deplo');
      await writeFile(join(volume, "routes", "empty.json"), "");
      await gateway.runtime.crash(dataPlaneId);
      await gateway.runtime.restart(dataPlaneId);
      expect((await gateway.ask("/good")).json()).toMatchObject({ upstream: "one" });
      expect((await gateway.ask("/bad")).status).toBe(404);
    });

    test("what a crash of the agent left half applied is put right by its return", async () => {
      const good = to("half", 1, one.url);
      succeeded(await gateway.apply(good));
      succeeded(await gateway.apply(to("half", 2, two.url), good));
      succeeded(await gateway.start([good]));
      expect((await gateway.ask("/half")).json()).toMatchObject({ upstream: "one" });
    });

    test("told to end, it finishes what is in flight, takes nothing new and exits with 0", async () => {
      const own = await ownGateway(dataPlane);
      let finish: () => void = () => {};
      const held = await ownUpstream("held", (_req, res) => {
        res.write("first,");
        finish = () => res.end("last");
      });
      succeeded(await own.apply(to("held", 1, held.url)));
      const asking = own.ask("/held");
      await until(() => held.seen.length === 1);
      const exiting = own.runtime.terminate(dataPlaneId);
      await until(() => own.runtime.output(dataPlaneId).includes('"stopping"'));
      await expect(own.ask("/held")).rejects.toThrow(/ECONNREFUSED/);
      finish();
      expect((await asking).text).toBe("first,last");
      expect(await exiting).toBe(0);
    });
  });
}

/** Undefined: all was well. */
function askKept(agent: Agent, port: number, path: string): Promise<string | undefined> {
  return new Promise((resolve) => {
    const req = request({ port, path, agent, headers: { host: "a" } }, (res) => {
      res.on("error", (error) => resolve(error.message));
      res.resume().on("end", () => resolve(res.statusCode === 200 ? undefined : `status ${res.statusCode}`));
    });
    req.on("error", (error) => resolve(error.message));
    req.end();
  });
}

function send(to: NodeJS.WritableStream, chunk: Buffer, times: number): void {
  let left = times;
  const more = (): void => {
    while (left > 0) {
      left -= 1;
      if (!to.write(chunk)) return void to.once("drain", more);
    }
    to.end();
  };
  more();
}
