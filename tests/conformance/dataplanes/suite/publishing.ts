/** What every gateway class promises about publishing: D1 and D2 of agents/core/src/dataplane.ts. */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { DataPlaneClass } from "@bowline/agent-core";
import { probePath } from "@bowline/dataplane-embedded";
import { freePort } from "@bowline/testing";
import { attachedRoutes, dataPlaneId, startGateway, succeeded, type Gateway, type Served } from "./gateway.ts";
import { startUpstream, type Upstream } from "./upstream.ts";

export function publishing(dataPlane: DataPlaneClass): void {
  describe(`${dataPlane.name}: publishing`, () => {
    let gateway: Gateway;
    let one: Upstream;
    let two: Upstream;
    beforeAll(async () => {
      [gateway, one, two] = await Promise.all([startGateway(dataPlane), startUpstream("one"), startUpstream("two")]);
    });
    afterAll(async () => {
      await gateway[Symbol.asyncDispose]();
      await one[Symbol.asyncDispose]();
      await two[Symbol.asyncDispose]();
    });

    const hello = (id: string, generation: number, url: string, path = `/${id}`): Served => ({
      id,
      generation,
      routes: [{ name: "hello", matches: [{ path: { value: path } }], backends: [{ backend: "main" }] }],
      backends: [{ name: "main", url }],
    });
    const upstreamOf = async (path: string): Promise<unknown> => (await gateway.ask(path)).json()["upstream"];

    test("published routes are served, and the probe names their generation", async () => {
      succeeded(await gateway.apply(hello("first", 3, one.url)));
      expect((await gateway.ask("/first/x?y=z")).json()).toMatchObject({ upstream: "one", url: "/first/x?y=z" });
      expect((await gateway.ask(probePath("first"))).json()).toEqual({ deploymentId: "first", generation: 3 });
    });

    test("without a matching route the answer is a 404 with a reason", async () => {
      const answer = await gateway.ask("/nothing-here");
      expect(answer.status).toBe(404);
      expect(answer.json()).toMatchObject({ code: "not_found", reason: "ROUTE_NOT_FOUND" });
    });

    test("the same generation twice is served once", async () => {
      succeeded(await gateway.apply(hello("twice", 1, one.url)));
      succeeded(await gateway.apply(hello("twice", 1, one.url), hello("twice", 1, one.url)));
      expect(await upstreamOf("/twice")).toBe("one");
    });

    test("routes that the data plane refuses leave the last good generation serving, and name the field", async () => {
      const good = hello("refused", 1, one.url);
      succeeded(await gateway.apply(good));
      const bad = hello("refused", 2, two.url);
      bad.routes[0]!.matches = [{ path: { type: 3, value: "/(a" } }];
      expect(await gateway.apply(bad, good)).toMatchObject({
        kind: "failed",
        reason: "ROUTES_REFUSED",
        worthRetry: false,
        message: expect.stringContaining("api_services[0].routes[0].matches[0].path.value"),
      });
      expect(await upstreamOf("/refused")).toBe("one");
      expect((await gateway.ask(probePath("refused"))).json()).toMatchObject({ generation: 1 });
    });

    test("a backend that takes no connection fails the publish after 4 tries and leaves the last good one", async () => {
      const good = hello("unreachable", 1, one.url);
      succeeded(await gateway.apply(good));
      const url = `http://127.0.0.1:${await freePort()}`;
      const end = await gateway.apply(hello("unreachable", 2, url), good);
      expect(end).toMatchObject({
        kind: "failed",
        reason: "BACKEND_UNREACHABLE",
        message: expect.stringMatching(
          new RegExp(`^route "hello" sends to backend "main" at ${url}: connection refused, 4 tries in \\d+ s$`),
        ),
      });
      expect(await upstreamOf("/unreachable")).toBe("one");
    });

    test("a backend with a private address is refused unless the policy allows it", async () => {
      for (const url of ["http://127.0.0.1:9", "http://localhost:9", "http://[::1]:9", "http://169.254.169.254/"]) {
        const end = await gateway.apply({ ...hello("private", 1, url), allowPrivateBackends: false });
        expect(end).toMatchObject({ kind: "failed", reason: "PRIVATE_BACKEND", worthRetry: false });
      }
      expect((await gateway.ask("/private")).status).toBe(404);
    });

    test("a cancelled publish is taken out again", async () => {
      const cancel = new AbortController();
      const applying = gateway.apply(
        hello("cancelled", 1, `http://127.0.0.1:${await freePort()}`),
        undefined,
        cancel.signal,
      );
      cancel.abort();
      expect(await applying).toEqual({ kind: "cancelled" });
      expect((await gateway.ask("/cancelled")).status).toBe(404);
    });

    test("what is removed is served no longer, and removing it again is no error", async () => {
      succeeded(await gateway.apply(hello("gone", 1, one.url)));
      succeeded(await gateway.remove("gone"));
      expect((await gateway.ask("/gone")).status).toBe(404);
      expect((await gateway.ask(probePath("gone"))).status).toBe(404);
      succeeded(await gateway.remove("gone"));
    });

    test("a crashed data plane loads the last good generation of everything by itself", async () => {
      succeeded(await gateway.apply(hello("kept", 7, one.url)));
      succeeded(await gateway.apply(hello("kept-too", 2, two.url)));
      await gateway.runtime.crash(dataPlaneId);
      await gateway.runtime.restart(dataPlaneId);
      expect(await upstreamOf("/kept")).toBe("one");
      expect(await upstreamOf("/kept-too")).toBe("two");
      expect((await gateway.ask(probePath("kept"))).json()).toMatchObject({ generation: 7 });
    });

    test("an agent that returns brings exactly what it knows as good", async () => {
      succeeded(await gateway.apply(hello("stale", 1, one.url)));
      succeeded(await gateway.apply(hello("known", 2, one.url)));
      succeeded(await gateway.start([hello("known", 1, two.url), hello("new", 1, one.url)]));
      expect(await upstreamOf("/known")).toBe("two");
      expect(await upstreamOf("/new")).toBe("one");
      expect((await gateway.ask("/stale")).status).toBe(404);
    });

    test("an agent that returns leaves what it has no record of as it is, also over a restart of the data plane", async () => {
      succeeded(await gateway.apply(hello("forgotten", 1, one.url)));
      succeeded(await gateway.apply(hello("removed", 1, one.url)));
      succeeded(await gateway.start([hello("found", 1, two.url)], (id) => id !== "forgotten"));
      await gateway.runtime.crash(dataPlaneId);
      await gateway.runtime.restart(dataPlaneId);
      expect(await upstreamOf("/forgotten")).toBe("one");
      expect(await upstreamOf("/found")).toBe("two");
      expect((await gateway.ask("/removed")).status).toBe(404);
      succeeded(await gateway.start([])); // for the tests after this one
    });

    test("an apply without a data plane fails as not ready, worth a retry", async () => {
      const end = await dataPlane.apply(
        "deployment_unknown",
        attachedRoutes(hello("x", 1, one.url)),
        undefined,
        gateway.runtime,
        () => {},
        AbortSignal.timeout(30_000),
      );
      expect(end).toMatchObject({ kind: "failed", reason: "DATA_PLANE_NOT_READY", worthRetry: true });
    });
  });
}
