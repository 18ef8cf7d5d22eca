import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { HttpRouteSchema, PathMatch_Type, ValueMatch_Type } from "@bowline/contract/deployments";
import { ProductManifestSchema } from "@bowline/contract/products";
import { privateBackends } from "./backend-urls.ts";
import { routeConflicts } from "./conflicts.ts";
import { diffManifests } from "./diff.ts";
import { pathProblem } from "./paths.ts";
import { validateManifest, validateRoute } from "./validate.ts";

type RouteInit = MessageInitShape<typeof HttpRouteSchema>;

const backends = [{ name: "b", url: "https://example.com" }];

function manifest(...routes: RouteInit[]) {
  return create(ProductManifestSchema, { name: "p", apiServices: [{ name: "s", routes, backends }] });
}

/** Fields that are wrong with a route, without the route's own path. */
function wrong(route: RouteInit): string[] {
  const whole = create(HttpRouteSchema, { name: "r", backends: [{ backend: "b" }], ...route });
  return validateRoute(whole, new Set(["b"]), "r").map(({ field }) => field.replace(/^r\./, ""));
}

const path = (type: PathMatch_Type, value: string) => ({ matches: [{ path: { type, value } }] });

test("a plain route is fine", () => {
  expect(wrong({})).toEqual([]);
  expect(wrong(path(PathMatch_Type.REGEX, "/v[0-9]+/[^/]+"))).toEqual([]);
});

test("the data plane's own path is nobody's, and too many regular expressions are refused before they are compiled", () => {
  for (const value of ["/.well-known/bowline/probe", "/%2ewell-known/bowline/x"])
    expect(wrong(path(PathMatch_Type.PREFIX, value))).toEqual(["matches[0].path.value"]);
  const match = { path: { type: PathMatch_Type.REGEX, value: "/x" } };
  const routes = Array.from({ length: 5 }, (_, r) => ({
    name: `r${r}`,
    matches: Array.from({ length: 64 }, () => match),
  }));
  expect(validateManifest(manifest(...routes))).toMatchObject([{ field: "api_services" }]);
});

test("names are unique among siblings, and routes refer to backends that are there", () => {
  const twice = create(ProductManifestSchema, {
    name: "p",
    apiServices: [
      {
        name: "s",
        routes: [
          { name: "r", backends: [{ backend: "x" }] },
          { name: "r", backends: [{ backend: "b" }] },
        ],
        backends,
      },
      { name: "s", backends: [...backends, ...backends] },
    ],
  });
  expect(validateManifest(twice).map(({ field }) => field)).toEqual([
    "api_services[1].name",
    "api_services[0].routes[1].name",
    "api_services[0].routes[0].backends[0].backend",
    "api_services[1].backends[1].name",
  ]);
});

test("a route sends somewhere, or redirects, never both", () => {
  const redirect = { kind: { case: "redirect", value: { hostname: "example.com" } } } as const;
  const rewrite = { kind: { case: "urlRewrite", value: { hostname: "example.com" } } } as const;
  expect(wrong({ backends: [] })).toEqual(["backends"]);
  expect(wrong({ backends: [], filters: [redirect] })).toEqual([]);
  expect(wrong({ filters: [redirect] })).toEqual(["backends"]);
  expect(wrong({ backends: [], filters: [redirect, rewrite] })).toEqual(["filters"]);
  expect(wrong({ filters: [rewrite, rewrite] })).toEqual(["filters[1]"]);
  expect(wrong({ backends: [{ backend: "b", weight: 0 }] })).toEqual(["backends"]);
  expect(wrong({ backends: [{ backend: "b", weight: 0 }, { backend: "b" }] })).toEqual([]);
  expect(wrong({ filters: [{ kind: { case: "mirror", value: { backend: "x" } } }] })).toEqual([
    "filters[0].mirror.backend",
  ]);
});

test("a replaced prefix needs a prefix in every match", () => {
  const replace = (value: string): RouteInit["filters"] => [
    { kind: { case: "urlRewrite", value: { path: { kind: { case: "replacePrefixMatch", value } } } } },
  ];
  const field = "filters[0].url_rewrite.path.replace_prefix_match";
  expect(wrong({ filters: replace("/x") })).toEqual([]);
  expect(wrong({ filters: replace("") })).toEqual([]);
  expect(wrong({ ...path(PathMatch_Type.PREFIX, "/a"), filters: replace("/x") })).toEqual([]);
  expect(wrong({ ...path(PathMatch_Type.EXACT, "/a"), filters: replace("/x") })).toEqual([field]);
  expect(wrong({ ...path(PathMatch_Type.REGEX, "/a"), filters: replace("/x") })).toEqual([field]);
  expect(wrong({ filters: replace("x") })).toEqual([field]);
  expect(wrong({ filters: replace("//evil.example") })).toEqual([field]);
});

test("headers that frame messages are not changed by routes", () => {
  const set = (name: string): RouteInit => ({
    filters: [{ kind: { case: "requestHeaderModifier", value: { set: [{ name, value: "x" }] } } }],
  });
  expect(wrong(set("x-team"))).toEqual([]);
  for (const name of ["Host", "Transfer-Encoding", "content-length", "Connection"])
    expect(wrong(set(name))).toEqual(["filters[0].request_header_modifier.set[0].name"]);
  const remove: NonNullable<RouteInit["filters"]>[number] = {
    kind: { case: "responseHeaderModifier", value: { remove: ["a b", "via"] } },
  };
  expect(wrong({ filters: [remove] })).toEqual([
    "filters[0].response_header_modifier.remove[0]",
    "filters[0].response_header_modifier.remove[1]",
  ]);
});

test("CORS with credentials names its origins", () => {
  const cors = (allowOrigins: string[], allowCredentials = false, more = {}): RouteInit => ({
    filters: [{ kind: { case: "cors", value: { allowOrigins, allowCredentials, ...more } } }],
  });
  expect(wrong(cors(["*"]))).toEqual([]);
  expect(wrong(cors(["https://a.example", "https://*.b.example", "http://localhost:3000"], true))).toEqual([]);
  expect(wrong(cors(["*"], true))).toEqual(["filters[0].cors.allow_origins[0]"]);
  expect(wrong(cors(["https://a.example", "*"]))).toEqual(["filters[0].cors.allow_origins[1]"]);
  for (const origin of ["a.example", "https://a.example/", "https://a.*.example", "ftp://a", "null", "https://a:99999"])
    expect(wrong(cors([origin]))).toEqual(["filters[0].cors.allow_origins[0]"]);
  expect(wrong(cors(["*"], false, { allowMethods: ["get", "PUT"] }))).toEqual(["filters[0].cors.allow_methods[0]"]);
  expect(wrong(cors(["*"], false, { allowHeaders: ["*", "x-a"] }))).toEqual(["filters[0].cors.allow_headers[0]"]);
});

test("a value is matched once, and one try gets no more time than the request", () => {
  const headers = [
    { name: "X-A", value: "1" },
    { name: "x-a", value: "2" },
  ];
  expect(wrong({ matches: [{ headers }] })).toEqual(["matches[0].headers[1].name"]);
  expect(wrong({ matches: [{ queryParams: headers }] })).toEqual([]);
  expect(wrong({ matches: [{ headers: [{ type: ValueMatch_Type.REGEX, name: "x", value: "(" }] }] })).toEqual([
    "matches[0].headers[0].value",
  ]);
  expect(wrong({ requestTimeout: { seconds: 1n }, backendRequestTimeout: { seconds: 2n } })).toEqual([
    "backend_request_timeout",
  ]);
});

test.each([
  "",
  "a",
  "//",
  "/a//b",
  "/..",
  "/a/../b",
  "/a/.",
  "/%2e%2E/a",
  "/a%2fb",
  "/a?b",
  "/a#b",
  "/a\\b",
  "/a b",
  "/ä",
  "/%zz",
  "/\0",
])("%j is no path", (value) => expect(pathProblem(value)).toBeDefined());

test.each(["/", "/a", "/a/b.c", "/a/", "/...", "/a%20b", "/~u/@x:y"])("%j is a path", (value) =>
  expect(pathProblem(value)).toBeUndefined(),
);

test("private backends are told with their paths, and refused only where it is known that they may not be", () => {
  const inside = create(ProductManifestSchema, {
    name: "p",
    apiServices: [{ name: "s", backends: [...backends, { name: "c", url: "http://0x7f.1/" }] }],
  });
  expect(privateBackends(inside)).toEqual([{ path: "api_services[0].backends[1].url", url: "http://0x7f.1/" }]);
  expect(validateManifest(inside)).toEqual([]);
  expect(validateManifest(inside, { allowPrivateBackends: true })).toEqual([]);
  expect(validateManifest(inside, { allowPrivateBackends: false })).toMatchObject([
    { field: "api_services[0].backends[1].url" },
  ]);
});

test("two products conflict where they claim the same match, however it is written", () => {
  const header = (name: string, value: string) => ({ name, value });
  const a = manifest(
    { name: "all", hostnames: ["a.example"], matches: [{ headers: [header("X", "1"), header("y", "2")] }] },
    { name: "exact", matches: [{ path: { type: PathMatch_Type.EXACT, value: "/x" }, method: "GET" }] },
    { name: "root" },
  );
  const same = (route: RouteInit) => routeConflicts(a, manifest({ name: "r", ...route })).map((conflict) => conflict.a);
  expect(same({})).toEqual(["api_services/s/routes/root"]);
  expect(same(path(PathMatch_Type.PREFIX, "/"))).toEqual(["api_services/s/routes/root"]);
  expect(same({ hostnames: ["a.example"] })).toEqual([]);
  expect(
    same({ hostnames: ["b.example", "a.example"], matches: [{ headers: [header("Y", "2"), header("x", "1")] }] }),
  ).toEqual(["api_services/s/routes/all"]);
  expect(same(path(PathMatch_Type.EXACT, "/x"))).toEqual([]);
  expect(same({ matches: [{ path: { type: PathMatch_Type.EXACT, value: "/x" }, method: "GET" }] })).toEqual([
    "api_services/s/routes/exact",
  ]);
  const what = routeConflicts(a, manifest({ name: "r" }))[0]?.what;
  expect(what).toBe("every method PREFIX / at every host");
});

test("a path however it is escaped, with and without its last slash, is one claim", () => {
  const [a, b] = ["/foo", "/f%6Fo/"].map((value) => manifest({ name: "r", ...path(PathMatch_Type.PREFIX, value) }));
  expect(routeConflicts(a!, b!)).toHaveLength(1);
});

test("a manifest does not differ from itself, and from nothing in all that it has", () => {
  const one = manifest({ name: "r" });
  expect(diffManifests(one, one)).toEqual([]);
  expect(diffManifests(undefined, one).map((change) => change.path)).toEqual([
    "product",
    "api_services/s",
    "api_services/s/routes/r",
    "api_services/s/backends/b",
  ]);
});
