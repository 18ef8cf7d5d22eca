/** Which route gets a request, as the Gateway API has it. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "@jest/globals";
import fc from "fast-check";
import type { DataPlaneClass } from "@bowline/agent-core";
import { startGateway, succeeded, type Gateway, type RouteInit } from "./gateway.ts";
import { expectedRoute, type Asked, type Match, type Route } from "./precedence.ts";
import { startUpstream, type Echo, type Upstream } from "./upstream.ts";

export function matching(dataPlane: DataPlaneClass): void {
  describe(`${dataPlane.name}: matching`, () => {
    let gateway: Gateway;
    let upstream: Upstream;
    const applied = new Set<string>();
    beforeAll(async () => {
      [gateway, upstream] = await Promise.all([startGateway(dataPlane), startUpstream("echo")]);
    });
    afterEach(async () => {
      for (const id of applied) succeeded(await gateway.remove(id));
      applied.clear();
    });
    afterAll(async () => {
      await gateway[Symbol.asyncDispose]();
      await upstream[Symbol.asyncDispose]();
    });

    let generation = 0;
    /** Serves routes that tell the backend who they are. */
    async function serve(routes: (RouteInit & { name: string })[], id = "a"): Promise<void> {
      applied.add(id);
      generation += 1;
      const named = routes.map((route) => ({
        ...route,
        filters: [
          {
            kind: {
              case: "requestHeaderModifier" as const,
              value: { set: [{ name: "x-route", value: `${id}/${route.name}` }] },
            },
          },
        ],
        backends: [{ backend: "echo" }],
      }));
      succeeded(
        await gateway.apply({ id, generation, routes: named, backends: [{ name: "echo", url: upstream.url }] }),
      );
    }
    async function routeOf(path: string, options: Parameters<Gateway["ask"]>[1] = {}): Promise<string | undefined> {
      const answer = await gateway.ask(path, options);
      if (answer.status === 404) return undefined;
      expect(answer.status).toBe(200);
      return (JSON.parse(answer.text) as Echo).headers["x-route"] as string;
    }

    test("a route without matches and hosts gets everything", async () => {
      await serve([{ name: "all" }]);
      expect(await routeOf("/")).toBe("a/all");
      expect(await routeOf("/any/thing?x=1", { host: "anywhere.test:8080", method: "DELETE" })).toBe("a/all");
    });

    test("a prefix matches whole path elements", async () => {
      await serve([{ name: "foo", matches: [{ path: { type: 2, value: "/foo/" } }] }]);
      expect(await routeOf("/foo")).toBe("a/foo");
      expect(await routeOf("/foo/")).toBe("a/foo");
      expect(await routeOf("/foo/bar?q")).toBe("a/foo");
      expect(await routeOf("/foobar")).toBeUndefined();
      expect(await routeOf("/Foo")).toBeUndefined();
    });

    test("exact before the longest prefix before a regular expression", async () => {
      await serve([
        { name: "regex", matches: [{ path: { type: 3, value: "/shop/.*" } }] },
        { name: "short", matches: [{ path: { type: 2, value: "/shop" } }] },
        { name: "long", matches: [{ path: { type: 2, value: "/shop/cart" } }] },
        { name: "exact", matches: [{ path: { type: 1, value: "/shop/cart" } }] },
        { name: "numbers", matches: [{ path: { type: 3, value: "/n/[0-9]+" } }] },
      ]);
      expect(await routeOf("/shop/cart")).toBe("a/exact");
      expect(await routeOf("/shop/cart/1")).toBe("a/long");
      expect(await routeOf("/shop/x")).toBe("a/short");
      expect(await routeOf("/n/12")).toBe("a/numbers");
      expect(await routeOf("/n/12x")).toBeUndefined();
      expect(await routeOf("/x/n/12")).toBeUndefined();
    });

    test("an exact host before the longest wildcard before none; a wildcard is no name of its own", async () => {
      await serve([
        { name: "none" },
        { name: "wide", hostnames: ["*.example.com"] },
        { name: "narrow", hostnames: ["*.eu.example.com"] },
        { name: "exact", hostnames: ["api.eu.example.com"] },
      ]);
      expect(await routeOf("/", { host: "API.eu.example.com:80" })).toBe("a/exact");
      expect(await routeOf("/", { host: "b.eu.example.com" })).toBe("a/narrow");
      expect(await routeOf("/", { host: "x.y.example.com" })).toBe("a/wide");
      expect(await routeOf("/", { host: "eu.example.com." })).toBe("a/wide");
      expect(await routeOf("/", { host: "example.com" })).toBe("a/none");
      expect(await routeOf("/", { host: "[::1]:80" })).toBe("a/none");
    });

    test("a less specific host serves what a more specific one has no match for", async () => {
      await serve([
        { name: "exact", hostnames: ["a.test"], matches: [{ path: { value: "/only" } }] },
        { name: "none", matches: [{ path: { value: "/other" } }] },
      ]);
      expect(await routeOf("/other", { host: "a.test" })).toBe("a/none");
    });

    test("a method, then more headers, then more query parameters", async () => {
      const header = (name: string) => ({ name, value: "1" });
      await serve([
        { name: "plain", matches: [{}] },
        { name: "query", matches: [{ queryParams: [header("q"), header("r")] }] },
        { name: "one", matches: [{ headers: [header("X-A")] }] },
        { name: "two", matches: [{ headers: [header("x-a"), header("x-b")] }] },
        { name: "method", matches: [{ method: "PUT" }] },
      ]);
      const both = { "x-a": "1", "X-B": "1" };
      expect(await routeOf("/?q=1&r=1", { method: "PUT", headers: both })).toBe("a/method");
      expect(await routeOf("/?q=1&r=1", { headers: both })).toBe("a/two");
      expect(await routeOf("/?q=1&r=1", { headers: { "x-a": "1" } })).toBe("a/one");
      expect(await routeOf("/?q=1&r=1", { headers: { "x-a": "2" } })).toBe("a/query");
      expect(await routeOf("/?q=1&r=2&r=1")).toBe("a/plain");
      expect(await routeOf("/?Q=1&r=1")).toBe("a/plain");
    });

    test("values may be regular expressions over the whole value", async () => {
      await serve([
        { name: "v", matches: [{ headers: [{ type: 2, name: "x-version", value: "v[12]" }] }] },
        { name: "q", matches: [{ queryParams: [{ type: 2, name: "page", value: "\\d+" }] }] },
      ]);
      expect(await routeOf("/", { headers: { "x-version": "v2" } })).toBe("a/v");
      expect(await routeOf("/", { headers: { "x-version": "v12" } })).toBeUndefined();
      expect(await routeOf("/?page=%31%32")).toBe("a/q");
      expect(await routeOf("/?page=1x")).toBeUndefined();
    });

    test("of equals the older deployment gets it, then the name", async () => {
      await serve([{ name: "aaa" }], "deployment_2");
      await serve([{ name: "zzz" }, { name: "yyy" }], "deployment_1");
      expect(await routeOf("/")).toBe("deployment_1/yyy");
      succeeded(await gateway.remove("deployment_1"));
      expect(await routeOf("/")).toBe("deployment_2/aaa");
    });

    test("any request goes where the naive reading of the rules sends it", async () => {
      const segment = fc.constantFrom("a", "b", "ab");
      const path = fc.array(segment, { maxLength: 3 }).map((segments) => `/${segments.join("/")}`);
      const value = fc.record({
        type: fc.constantFrom(1 as const, 2 as const),
        name: fc.constantFrom("x-a", "X-B", "x-b"),
        value: fc.constantFrom("1", "2", "[12]"),
      });
      const match: fc.Arbitrary<Match> = fc.record({
        path: fc.oneof(
          fc.record({ type: fc.constantFrom(1 as const, 2 as const), value: path }),
          fc.record({ type: fc.constant(3 as const), value: fc.constantFrom("/a.*", "/[ab]+", ".*b", "/a/b?") }),
        ),
        method: fc.constantFrom("", "", "GET", "PUT"),
        headers: fc.array(value, { maxLength: 2 }),
        queryParams: fc.array(value, { maxLength: 2 }),
      });
      const host = fc.constantFrom("a.test", "b.a.test", "c.b.a.test", "other.test");
      const route = fc.record({
        deployment: fc.constantFrom("deployment_1", "deployment_2", "deployment_3"),
        hostnames: fc.uniqueArray(fc.constantFrom("a.test", "b.a.test", "*.a.test", "*.b.a.test", "*.test"), {
          maxLength: 2,
        }),
        matches: fc.array(match, { minLength: 1, maxLength: 3 }),
      });
      const asked: fc.Arbitrary<Asked> = fc.record({
        host,
        path,
        method: fc.constantFrom("GET", "PUT"),
        headers: fc.dictionary(fc.constantFrom("x-a", "x-b"), fc.constantFrom("1", "2", "3")),
        query: fc.array(fc.tuple(fc.constantFrom("x-a", "X-B", "x-b"), fc.constantFrom("1", "2", "3")), {
          maxLength: 2,
        }),
      });
      await fc.assert(
        fc.asyncProperty(
          fc.array(route, { minLength: 1, maxLength: 8 }),
          fc.array(asked, { minLength: 5, maxLength: 12 }),
          async (drafts, requests) => {
            const routes = drafts.map((draft, i): Route => ({ ...draft, name: `r${i}` }));
            for (const id of new Set(["deployment_1", "deployment_2", "deployment_3"])) {
              const own = routes.filter(({ deployment }) => deployment === id);
              if (own.length === 0) succeeded(await gateway.remove(id));
              else await serve(own, id);
            }
            for (const one of requests) {
              const search = new URLSearchParams(one.query).toString();
              const { method, host: name, headers } = one;
              const got = await routeOf(one.path + (search === "" ? "" : `?${search}`), {
                method,
                host: name,
                headers,
              });
              expect(got).toBe(expectedRoute(routes, one));
            }
          },
        ),
        { numRuns: 150, seed: 11 },
      );
    });

    test("a path that an attacker wrote is matched and forwarded in one form, or refused", async () => {
      await serve([
        { name: "public", matches: [{ path: { value: "/public" } }] },
        { name: "admin", matches: [{ path: { value: "/admin" } }] },
      ]);
      expect(await routeOf("/public/../admin/x")).toBe("a/admin");
      expect(await routeOf("/public/%2e%2E/admin/x")).toBe("a/admin");
      expect(await routeOf("/%70ublic/./x")).toBe("a/public");
      const echoed = (await gateway.ask("/public/a%2fb/%7e/./c/../d%20e?x=%2f..")).json() as unknown as Echo;
      expect(echoed.url).toBe("/public/a%2Fb/~/d%20e?x=%2f..");
      for (const path of [
        "/public/..%2fadmin",
        "/public/%2e%2e%5cadmin",
        "/public/..;/admin",
        "/../admin",
        "/public/%00",
        "/public/%zz",
        "/public/%",
        "/public\\..\\admin",
      ]) {
        expect({ path, status: (await gateway.ask(path)).status }).toEqual({ path, status: 400 });
      }
    });

    test("a regular expression that would make others backtrack for ever costs nothing", async () => {
      await serve([{ name: "evil", matches: [{ path: { type: 3, value: "/(a+)+b" } }] }]);
      const from = performance.now();
      for (let i = 0; i < 20; i += 1) expect(await routeOf(`/${"a".repeat(4_000)}`)).toBeUndefined();
      expect(performance.now() - from).toBeLessThan(5_000);
    });
  });
}
