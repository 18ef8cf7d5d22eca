/**
 * What routes change on the way: headers, redirects, rewrites, mirrors, CORS, weights.
 * Long because each filter is a few claims on one gateway, started once.
 */
import { afterAll, beforeAll, describe, expect, test } from "@jest/globals";
import type { DataPlaneClass } from "@bowline/agent-core";
import { startGateway, succeeded, type BackendInit, type Gateway, type RouteInit } from "./gateway.ts";
import { startUpstream, until, type Echo, type Upstream } from "./upstream.ts";

type Filters = NonNullable<RouteInit["filters"]>;

export function filters(dataPlane: DataPlaneClass): void {
  describe(`${dataPlane.name}: filters`, () => {
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

    let generation = 0;
    function serving(route: Partial<RouteInit>, backends?: BackendInit[]) {
      generation += 1;
      return gateway.apply({
        generation,
        routes: [{ name: "r", backends: [{ backend: "one" }], ...route }],
        backends: backends ?? [
          { name: "one", url: one.url },
          { name: "two", url: two.url },
        ],
      });
    }
    const echo = async (path: string, options?: Parameters<Gateway["ask"]>[1]): Promise<Echo> =>
      JSON.parse((await gateway.ask(path, options)).text) as Echo;

    test("request headers are set, added and removed, in this order", async () => {
      const value = {
        set: [{ name: "X-Set", value: "new" }],
        add: [
          { name: "X-Add", value: "more" },
          { name: "X-Both", value: "gone" },
        ],
        remove: ["X-Gone", "x-both"],
      };
      succeeded(await serving({ filters: [{ kind: { case: "requestHeaderModifier", value } }] }));
      const { headers } = await echo("/", {
        headers: { "x-set": ["old", "older"], "x-add": "first", "x-gone": "1", "x-kept": "k" },
      });
      expect(headers).toMatchObject({ "x-set": "new", "x-add": "first, more", "x-kept": "k" });
      expect(headers).not.toHaveProperty("x-gone");
      expect(headers).not.toHaveProperty("x-both");
    });

    test("response headers are changed", async () => {
      const value = { set: [{ name: "content-type", value: "text/plain" }], add: [{ name: "X-Via", value: "gw" }] };
      succeeded(await serving({ filters: [{ kind: { case: "responseHeaderModifier", value } }] }));
      expect((await gateway.ask("/")).headers).toMatchObject({ "content-type": "text/plain", "x-via": "gw" });
    });

    test("headers that frame a message cannot be changed", async () => {
      for (const name of ["Content-Length", "transfer-encoding", "Host", "connection"]) {
        const end = await serving({
          filters: [{ kind: { case: "requestHeaderModifier", value: { set: [{ name, value: "1" }] } } }],
        });
        expect(end).toMatchObject({
          reason: "ROUTES_REFUSED",
          message: expect.stringContaining("filters[0].request_header_modifier.set[0].name"),
        });
      }
    });

    test("a rewrite replaces the matched prefix as the Gateway API's table says", async () => {
      const cases = [
        ["/foo/bar", "/foo", "/xyz", "/xyz/bar"],
        ["/foo/bar", "/foo", "/xyz/", "/xyz/bar"],
        ["/foo/bar", "/foo/", "/xyz", "/xyz/bar"],
        ["/foo/bar", "/foo/", "/xyz/", "/xyz/bar"],
        ["/foo", "/foo", "/xyz", "/xyz"],
        ["/foo/", "/foo", "/xyz", "/xyz/"],
        ["/foo/bar", "/foo", "", "/bar"],
        ["/foo/", "/foo", "", "/"],
        ["/foo", "/foo", "", "/"],
        ["/foo/", "/foo", "/", "/"],
        ["/foo", "/foo", "/", "/"],
        ["/bar", "/", "/xyz", "/xyz/bar"],
      ] as const;
      for (const [path, prefix, replace, expected] of cases) {
        succeeded(
          await serving({
            matches: [{ path: { value: prefix } }],
            filters: [rewrite({ path: { kind: { case: "replacePrefixMatch", value: replace } } })],
          }),
        );
        expect({ path, prefix, replace, url: (await echo(`${path}?q=1`)).url }).toEqual({
          path,
          prefix,
          replace,
          url: `${expected}?q=1`,
        });
      }
    });

    test("a rewrite replaces the whole path and the host", async () => {
      succeeded(
        await serving({
          filters: [rewrite({ hostname: "inner.test", path: { kind: { case: "replaceFullPath", value: "/whole" } } })],
        }),
      );
      expect(await echo("/a/b?c=d", { host: "outer.test:99" })).toMatchObject({
        url: "/whole?c=d",
        headers: { host: "inner.test", "x-forwarded-host": "outer.test:99" },
      });
    });

    test("replacing a prefix needs a prefix match", async () => {
      const end = await serving({
        matches: [{ path: { type: 1, value: "/a" } }],
        filters: [rewrite({ path: { kind: { case: "replacePrefixMatch", value: "/b" } } })],
      });
      expect(end).toMatchObject({
        reason: "ROUTES_REFUSED",
        message: expect.stringContaining("url_rewrite.path.replace_prefix_match"),
      });
    });

    test("a redirect fills in what it leaves out", async () => {
      const { port } = gateway;
      const cases = [
        [{}, 302, `http://a.test:${port}/old/x?q=1`],
        [{ hostname: "b.test" }, 302, `http://b.test:${port}/old/x?q=1`],
        [{ scheme: "https" }, 302, "https://a.test/old/x?q=1"],
        [{ scheme: "https", port: 8443, statusCode: 308 }, 308, "https://a.test:8443/old/x?q=1"],
        [{ scheme: "http", hostname: "b.test", statusCode: 301 }, 301, "http://b.test/old/x?q=1"],
        [{ port: 80 }, 302, "http://a.test/old/x?q=1"],
        [
          { path: { kind: { case: "replacePrefixMatch" as const, value: "/new" } } },
          302,
          `http://a.test:${port}/new/x?q=1`,
        ],
        [{ path: { kind: { case: "replaceFullPath" as const, value: "/all" } } }, 302, `http://a.test:${port}/all?q=1`],
      ] as const;
      for (const [value, status, location] of cases) {
        succeeded(
          await serving({
            matches: [{ path: { value: "/old" } }],
            backends: [],
            filters: [{ kind: { case: "redirect", value } }],
          }),
        );
        const answer = await gateway.ask("/old/x?q=1", { host: `a.test:${port}`, method: "POST", body: "ignored" });
        expect({ status: answer.status, location: answer.headers.location }).toEqual({ status, location });
      }
    });

    test("requests are shared by weight", async () => {
      succeeded(
        await serving({
          backends: [
            { backend: "one", weight: 3 },
            { backend: "two", weight: 1 },
          ],
        }),
      );
      const counts: Record<string, number> = { one: 0, two: 0 };
      for (let i = 0; i < 80; i += 1) {
        const { upstream } = await echo("/");
        counts[upstream] = counts[upstream]! + 1;
      }
      // The exact share is a matter of chance for some classes.
      expect(counts["one"]).toBeGreaterThan(45);
      expect(counts["two"]).toBeGreaterThan(8);
    });

    test("a weight of 0 sends nothing, and only zeros answer 500", async () => {
      succeeded(await serving({ backends: [{ backend: "one", weight: 0 }, { backend: "two" }] }));
      for (let i = 0; i < 10; i += 1) expect((await echo("/")).upstream).toBe("two");
      succeeded(await serving({ backends: [{ backend: "one", weight: 0 }] }));
      expect((await gateway.ask("/")).status).toBe(500);
    });

    test("a mirror gets a copy with its body, and its answer goes nowhere", async () => {
      succeeded(await serving({ filters: [{ kind: { case: "mirror", value: { backend: "two" } } }] }));
      const before = two.seen.length;
      const answer = await echo("/mirrored?x=1", { method: "POST", body: "payload" });
      expect(answer).toMatchObject({ upstream: "one", body: "payload" });
      await until(() => two.seen.length === before + 1 && two.bodies.at(-1) === "payload");
      expect(two.seen.at(-1)).toMatchObject({ method: "POST", url: "/mirrored?x=1" });
    });

    test("a mirror that is away, or of 0 percent, changes nothing", async () => {
      const backends = [
        { name: "one", url: one.url },
        { name: "away", url: "http://127.0.0.1:9" },
        { name: "two", url: two.url },
      ];
      const mirror = (backend: string, percent?: number): Filters[number] => ({
        kind: { case: "mirror", value: { backend, percent } },
      });
      succeeded(await serving({ filters: [mirror("away"), mirror("two", 0)] }, backends));
      const before = two.seen.length;
      for (let i = 0; i < 5; i += 1) expect((await echo("/x", { method: "PUT", body: "b" })).upstream).toBe("one");
      expect(two.seen.length).toBe(before);
    });

    test("a preflight is answered here, for the route that the request would take", async () => {
      const value = {
        allowOrigins: ["https://app.test", "https://*.wild.test"],
        allowMethods: ["GET", "PUT"],
        allowHeaders: ["x-token"],
        exposeHeaders: ["x-total"],
        allowCredentials: true,
        maxAge: { seconds: 60n },
      };
      succeeded(
        await serving({
          matches: [{ method: "PUT" }],
          filters: [{ kind: { case: "cors", value } }],
        }),
      );
      const before = one.seen.length;
      const preflight = (origin: string) =>
        gateway.ask("/x", {
          method: "OPTIONS",
          headers: {
            origin,
            "access-control-request-method": "PUT",
            "access-control-request-headers": "x-token",
          },
        });
      const answer = await preflight("https://a.wild.test");
      expect(answer.status).toBe(204);
      expect(answer.headers).toMatchObject({
        "access-control-allow-origin": "https://a.wild.test",
        "access-control-allow-methods": "GET, PUT",
        "access-control-allow-headers": "x-token",
        "access-control-allow-credentials": "true",
        "access-control-max-age": "60",
      });
      for (const origin of [
        "https://evil.test",
        "https://wild.test",
        "https://evil.test/.wild.test",
        "http://app.test",
      ]) {
        const refused = await preflight(origin);
        expect(refused.status).toBe(204);
        expect(refused.headers).not.toHaveProperty("access-control-allow-origin");
      }
      expect(one.seen.length).toBe(before);
      const actual = await gateway.ask("/x", { method: "PUT", headers: { origin: "https://app.test" } });
      expect(actual.headers).toMatchObject({
        "access-control-allow-origin": "https://app.test",
        "access-control-expose-headers": "x-total",
        vary: "Origin",
      });
    });

    test("any origin is answered with * only without credentials", async () => {
      const cors = (allowCredentials: boolean): Filters[number] => ({
        kind: { case: "cors", value: { allowOrigins: ["*"], allowMethods: ["*"], allowCredentials } },
      });
      const preflight = () =>
        gateway.ask("/", {
          method: "OPTIONS",
          headers: { origin: "https://any.test", "access-control-request-method": "PATCH" },
        });
      succeeded(await serving({ filters: [cors(false)] }));
      expect((await preflight()).headers).toMatchObject({
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "*",
        "access-control-max-age": "5",
      });
      succeeded(await serving({ filters: [cors(true)] }));
      expect((await preflight()).headers).toMatchObject({
        "access-control-allow-origin": "https://any.test",
        "access-control-allow-methods": "PATCH",
      });
    });

    test("what cannot be meant is refused with the field's path", async () => {
      const cases: [Partial<RouteInit>, string][] = [
        [{ backends: [{ backend: "nobody" }] }, "routes[0].backends[0].backend"],
        [{ backends: [] }, "routes[0].backends"],
        [{ matches: [{ path: { value: "no-slash" } }] }, "matches[0].path.value"],
        [{ matches: [{ path: { value: "/a/../b" } }] }, "matches[0].path.value"],
        [{ matches: [{ path: { value: "/.well-known/bowline/x" } }] }, "matches[0].path.value"],
        [{ matches: [{ headers: [{ type: 2, name: "a", value: "(" }] }] }, "matches[0].headers[0].value"],
        [{ filters: [{ kind: { case: "redirect", value: {} } }] }, "routes[0].backends"],
        [{ filters: [{ kind: { case: "cors", value: { allowOrigins: ["no origin"] } } }] }, "cors.allow_origins[0]"],
        [{ filters: [rewrite({}), rewrite({})] }, "filters[1]"],
        [{ filters: [{ kind: { case: undefined } }] }, "filters[0]"],
        [{ hostnames: ["a b"] }, "hostnames[0]"],
      ];
      for (const [route, path] of cases) {
        expect(await serving(route)).toMatchObject({
          reason: "ROUTES_REFUSED",
          message: expect.stringContaining(`${path}: `),
        });
      }
    });
  });
}

function rewrite(value: { hostname?: string; path?: PathChange }): Filters[number] {
  return { kind: { case: "urlRewrite", value } };
}

interface PathChange {
  kind: { case: "replaceFullPath" | "replacePrefixMatch"; value: string };
}
