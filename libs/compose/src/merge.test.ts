import { expect, test } from "@jest/globals";
import { parseCompose, type ComposeInput } from "./parse.ts";
import type { Service, Stack } from "./model.ts";

/** The stack of files, each a text; errors fail the test. */
function stackOf(texts: string[], more: Partial<ComposeInput> = {}): Stack {
  const files = texts.map((text, index) => ({ name: `${index}.yaml`, text }));
  const { stack, errors } = parseCompose({ name: "x", files, ...more });
  expect(errors).toEqual([]);
  if (stack === undefined) throw new Error("no stack and no error");
  return stack;
}

function serviceOf(texts: string[], more: Partial<ComposeInput> = {}): Service {
  const service = stackOf(texts, more).services[0];
  if (service === undefined) throw new Error("no service");
  return service;
}

/** One service, merged of two files that have these lines below it. */
function merged(base: string, over: string): Service {
  const file = (lines: string) => `services:\n  foo:\n    image: a\n${lines.replaceAll(/^/gm, "    ")}\n`;
  return serviceOf([file(base), file(over)]);
}

test("scalars replace, mappings merge, sequences append", () => {
  const service = merged(
    "user: a\nlabels: {k1: v1, k2: v2}\ndns: [1.1.1.1]",
    "user: b\nlabels: {k2: V, k3: v3}\ndns: 8.8.8.8",
  );
  expect(service).toMatchObject({ user: "b", labels: { k1: "v1", k2: "V", k3: "v3" }, dns: ["1.1.1.1", "8.8.8.8"] });
});

test("commands and the test of a health check replace", () => {
  const service = merged(
    "command: [echo, foo]\nentrypoint: [a, b]\nhealthcheck: {test: [CMD, a], retries: 3}",
    "command: [echo, bar]\nentrypoint: c\nhealthcheck: {test: b}",
  );
  expect(service).toMatchObject({
    command: ["echo", "bar"],
    entrypoint: ["c"],
    healthcheck: { test: { shell: true, command: ["b"] }, retries: 3 },
  });
});

test("lists and mappings of names and values merge with each other", () => {
  const service = merged(
    "environment: [A=1, B=2]\nextra_hosts: ['h:1.1.1.1']",
    "environment: {B: 3, C: 4}\nextra_hosts: {i: 2.2.2.2}",
  );
  expect(service).toMatchObject({ environment: { A: "1", B: "3", C: "4" }, extraHosts: ["h=1.1.1.1", "i=2.2.2.2"] });
});

test("ports are one per address, target, published port and protocol", () => {
  const { ports } = merged(
    "ports: ['8080:80', '53:53/udp']",
    "ports: [{target: 80, published: 8080, name: web}, '8081:80']",
  );
  expect(ports).toEqual([
    { name: "web", container: 80, published: 8080, protocol: "tcp", hostAddress: "" },
    { container: 53, published: 53, protocol: "udp", hostAddress: "" },
    { container: 80, published: 8081, protocol: "tcp", hostAddress: "" },
  ]);
});

test("mounts, secrets and configs are one per target", () => {
  const stack = stackOf(
    [
      "services: {a: {image: i, volumes: ['foo:/work', 'foo:/keep'], secrets: [s], configs: [{source: c, target: /c}]}}",
      `services: {a: {volumes: ['bar:/work:ro'], secrets: [{source: s, mode: 0400}], configs: [{source: d, target: /c}]}}
volumes: {foo: , bar: }
secrets: {s: {environment: V}}
configs: {c: {content: one}, d: {content: two}}`,
    ],
    { variables: { V: "v" } },
  );
  expect(stack.services[0]).toMatchObject({
    mounts: [
      { volume: "bar", target: "/work", readOnly: true },
      { volume: "foo", target: "/keep", readOnly: false },
    ],
    secrets: [{ source: "s" }],
    configs: [{ source: "d", target: "/c" }],
  });
});

test("!reset takes away, !override replaces", () => {
  const service = merged(
    "ports: ['8080:80']\nenvironment: {FOO: BAR, BAZ: 1}\ndns: [1.1.1.1]\nlabels: {a: b}",
    "ports: !override ['8443:443']\nenvironment: {FOO: !reset null}\ndns: !reset []\nlabels: !override {c: d}",
  );
  expect(service.ports).toMatchObject([{ published: 8443 }]);
  expect(service).toMatchObject({ environment: { BAZ: "1" }, dns: [], labels: { c: "d" } });
  expect(service.environment).not.toHaveProperty("FOO");
  expect(service.labels).not.toHaveProperty("a");
});

test("!reset takes a whole service away, and what it stands on need not be valid", () => {
  const stack = stackOf(["services: {a: {image: i}, b: {image: i}}", "services: {b: !reset {nonsense: 1}}"]);
  expect(stack.services.map(({ name }) => name)).toEqual(["a"]);
});

test("a key with nothing after it takes nothing away", () => {
  expect(merged("deploy: {replicas: 2}", "deploy:").replicas).toBe(2);
});

test("options of one logging driver do not reach another", () => {
  const base = "logging: {driver: json-file, options: {max-size: 1m}}";
  expect(merged(base, "logging: {driver: local}").logging).toEqual({ driver: "local", options: {} });
  expect(merged(base, "logging: {options: {max-file: 2}}").logging).toEqual({
    driver: "json-file",
    options: { "max-file": "2", "max-size": "1m" },
  });
});

test("variables are replaced in each file before it is merged", () => {
  expect(
    serviceOf(["services: {a: {image: 'i:$TAG'}}", "services: {a: {user: '${WHO:-me}'}}"], { variables: { TAG: "2" } }),
  ).toMatchObject({ image: "i:2", user: "me" });
});

test("documents of one file merge as files do", () => {
  expect(serviceOf(["services: {a: {image: one}}\n---\nservices: {a: {image: two}}\n"]).image).toBe("two");
});

test("extends takes a service of the same file, of another one, and of one that extends itself", () => {
  const other =
    "services: {base: {extends: root, environment: {A: base}}, root: {image: r, environment: {A: root, B: root}}}";
  const stack = stackOf(
    ["services: {a: {extends: {service: base, file: ./other.yaml}, environment: {C: a}}, b: {extends: a, user: u}}"],
    {
      contents: { "other.yaml": other },
    },
  );
  expect(stack.services).toMatchObject([
    { name: "a", image: "r", environment: { A: "base", B: "root", C: "a" } },
    { name: "b", image: "r", user: "u", environment: { C: "a" } },
  ]);
});

test("include brings the services of a file that was given", () => {
  const stack = stackOf(["include: [db.yaml]\nservices: {a: {image: i, depends_on: [db]}}"], {
    contents: { "db.yaml": "services: {db: {image: pg, volumes: ['d:/d']}}\nvolumes: {d: }" },
  });
  expect(stack.services.map(({ name }) => name)).toEqual(["a", "db"]);
  expect(stack.volumes).toMatchObject([{ name: "d" }]);
});

test("relative paths of a file that is extended from or included start at its folder, or where the include says", () => {
  const below =
    "services: {b: {image: i, env_file: b.env, volumes: ['./d:/d', '../e:/e', 'v:/v'], configs: [c]}}\nvolumes: {v: }\nconfigs: {c: {file: ./c.txt}}";
  const contents = {
    ...{ "below/b.yaml": below, "below/b.env": "FROM=below", "below/c.txt": "below" },
    ...{ "b.env": "FROM=top", "c.txt": "top" },
    "below/again.yaml": "include: [deep/x.yaml]",
    "below/deep/x.yaml": "services: {x: {image: x, volumes: [{type: bind, source: ../d, target: /d}]}}",
  };
  const given = { contents, projectDirectory: "/srv" };
  const sources = (service: Service) => service.mounts.map((mount) => ("source" in mount ? mount.source : mount.kind));
  const extended = stackOf(
    [
      "services: {a: {extends: {file: below/b.yaml, service: b}, configs: !reset [], volumes: ['./f:/f']}}\nvolumes: {v: }",
    ],
    given,
  );
  expect(extended.services).toMatchObject([{ name: "a", environment: { FROM: "below" } }]);
  expect(extended.services.map(sources)).toEqual([["/srv/below/d", "/srv/e", "volume", "/srv/f"]]);
  const included = stackOf(["include: [./below/b.yaml, below/again.yaml]"], given);
  expect(included.services.map(sources)).toEqual([["/srv/below/d", "/srv/e", "volume"], ["/srv/below/d"]]);
  expect(included.configs).toMatchObject([{ name: "c", source: { content: "below" } }]);
  const elsewhere = stackOf(["include: [{path: below/b.yaml, project_directory: .}]"], given);
  expect(elsewhere.services).toMatchObject([{ environment: { FROM: "top" } }]);
  expect(elsewhere.services.map(sources)).toEqual([["/srv/d", "/e", "volume"]]);
});

test("an included file has variables of its own: of the env file that the include names, else of .env in its folder", () => {
  const image = (include: string, variables: Record<string, string> = {}) =>
    stackOf([`include: [${include}]`], {
      variables,
      contents: {
        "sub/x.yaml": "services: {x: {image: 'x:${TAG:-none}'}}",
        ...{ "sub/.env": "TAG=implied", "v.env": "V=na\nTAG=${V}med" },
      },
    }).services[0]?.image;
  expect(image("sub/x.yaml")).toBe("x:implied");
  expect(image("sub/x.yaml", { TAG: "stack" })).toBe("x:stack");
  expect(image("{path: sub/x.yaml, env_file: v.env}")).toBe("x:named");
  expect(image("{path: sub/x.yaml, project_directory: .}")).toBe("x:none");
});

test.each([
  ["services: {a: {image: i, extends: b}, b: {extends: a}}", "EXTENDS_INVALID", "services.b.extends"],
  ["services: {base: {image: i}, a: {extends: bsae}}", "EXTENDS_INVALID", "services.a.extends"],
  ["services: {a: {extends: {service: b, file: no.yaml}}}", "EXTENDS_INVALID", "services.a.extends"],
  ["include: [no.yaml]\nservices: {a: {image: i}}", "INCLUDE_UNSUPPORTED", "include[0]"],
  ["include: [same.yaml]\nservices: {a: {image: i}}", "CONFLICT", "include[0]"],
  ["include: [loop.yaml]\nservices: {a: {image: i}}", "INCLUDE_UNSUPPORTED", "include[0]"],
  ["include: [{path: same.yaml, env_file: no.env}]", "FILE_MISSING", "include[0]"],
  ["include: [{path: same.yaml, env_file: bad.env}]", "VALUE_INVALID", "include[0]"],
])("%s is refused as %s", (text, reason, path) => {
  const contents = { "same.yaml": "services: {a: {image: j}}", "loop.yaml": "include: [loop.yaml]", "bad.env": "=" };
  const { errors } = parseCompose({ name: "x", files: [{ name: "f", text }], contents });
  expect(errors.map((error) => [error.reason, error.path])).toContainEqual([reason, path]);
});

test("an error says in which of the files it stands", () => {
  const { errors } = parseCompose({
    name: "x",
    files: [
      { name: "base.yaml", text: "services:\n  a:\n    image: i\n" },
      { name: "over.yaml", text: "services:\n  a:\n    ports:\n      - '1:2:3:4'\n" },
    ],
  });
  expect(errors).toMatchObject([{ reason: "VALUE_INVALID", file: "over.yaml", line: 4, path: "services.a.ports[0]" }]);
});
