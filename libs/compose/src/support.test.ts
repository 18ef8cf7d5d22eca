import { expect, test } from "@jest/globals";
import { parseCompose } from "./parse.ts";
import { composeSchema, dereference, knownKeys, type Schema } from "./schema.ts";
import { sections } from "./support.ts";

/** What a step of a section's path leads to in the schema, through all forms. */
function step(schema: Schema, name: string): Schema[] {
  const found = dereference(schema);
  const forms = [...(found.oneOf ?? []), ...(found.anyOf ?? []), ...(found.allOf ?? [])];
  const own: Schema[] = [];
  if (name === "*") {
    if (found.items !== undefined) own.push(found.items);
    for (const [pattern, value] of Object.entries(found.patternProperties ?? {}))
      if (pattern !== "^x-") own.push(value);
  } else if (found.properties?.[name] !== undefined) own.push(found.properties[name]);
  return [...own, ...forms.flatMap((form) => step(form, name))];
}

function at(path: readonly string[]): Schema[] {
  let schemas: Schema[] = [composeSchema];
  for (const name of path) schemas = schemas.flatMap((schema) => step(schema, name));
  return schemas;
}

function keysOf(schema: Schema): string[] {
  const found = dereference(schema);
  return [...knownKeys(found), ...[...(found.oneOf ?? []), ...(found.anyOf ?? [])].flatMap(keysOf)];
}

const keysAt = (path: readonly string[]) => [...new Set(at(path).flatMap(keysOf))].toSorted();

test.each(sections.map((section) => [section.title, section] as const))(
  "%s: the table has the schema's keys",
  (_, section) => {
    expect(Object.keys(section.keys).toSorted()).toEqual(keysAt(section.at));
  },
);

test("below every key that is supported, each mapping of the schema has its section", () => {
  const listed = new Map(sections.map((section) => [section.at.join("."), section]));
  const missing: string[] = [];
  const visit = (path: readonly string[]): void => {
    if (path.length > 8) throw new Error("the schema has grown deeper");
    const keys = keysAt(path);
    const section = listed.get(path.join("."));
    if (keys.length > 0 && section === undefined) missing.push(path.join("."));
    for (const key of keys)
      if (["supported", "policy"].includes(section?.keys[key]?.status ?? "")) visit([...path, key]);
    if (at(path).some((schema) => step(schema, "*").length > 0)) visit([...path, "*"]);
  };
  visit([]);
  // Devices are read whole, and asked for whole.
  expect(missing).toEqual(["services.*.devices.*"]);
});

test("what is read and changes nothing is said to", () => {
  const keys = `cgroup: host, volumes: ['v:/a:nocopy', {type: volume, source: v, target: /b, volume: {nocopy: true}}],
    healthcheck: {test: x, start_interval: 1s}, deploy: {resources: {reservations: {cpus: 1}},
      restart_policy: {condition: any, max_attempts: 3, delay: 1s, window: 2s}}`;
  const text = `services: {a: {image: i, ${keys}}}\nvolumes: {v: }\nconfigs: {c: {content: x, name: y}}`;
  const { errors, warnings } = parseCompose({ name: "x", files: [{ name: "f", text }] });
  expect(errors).toEqual([]);
  expect(warnings.map(({ path }) => path).toSorted()).toEqual([
    "configs.c.name",
    "services.a.cgroup",
    "services.a.deploy.resources.reservations.cpus",
    "services.a.deploy.restart_policy.delay",
    "services.a.deploy.restart_policy.max_attempts",
    "services.a.deploy.restart_policy.window",
    "services.a.healthcheck.start_interval",
    "services.a.volumes[0]",
    "services.a.volumes[1].volume.nocopy",
  ]);
});

test("whatever is ignored or refused says why", () => {
  const silent = sections.flatMap(({ title, keys }) =>
    Object.entries(keys).flatMap(([key, { status, note }]) =>
      (status === "ignored" || status === "refused") && note === "" ? [`${title} ${key}`] : [],
    ),
  );
  expect(silent).toEqual([]);
});

function say(text: string) {
  const { errors, warnings } = parseCompose({ name: "x", files: [{ name: "f", text }] });
  return {
    errors: errors.map(({ reason, path }) => `${reason} ${path}`),
    warnings: warnings.map(({ reason, path }) => `${reason} ${path}`),
  };
}

test("an ignored key is a warning with its path, a refused one an error", () => {
  expect(
    say(
      "version: '3'\nservices:\n  a:\n    image: a\n    runtime: nvidia\n    deploy: {endpoint_mode: vip}\n    umask: 0\n",
    ),
  ).toEqual({
    errors: ["UNSUPPORTED_KEY services.a.runtime", "UNSUPPORTED_KEY services.a.umask"],
    warnings: ["KEY_IGNORED version", "KEY_IGNORED services.a.deploy.endpoint_mode"],
  });
});

test("a refused key that asks for nothing is no error", () => {
  const text = "services:\n  a:\n    image: a\n    oom_kill_disable: false\n    pre_stop: []\n    runtime: ''\n";
  expect(say(text)).toEqual({ errors: [], warnings: [] });
});

test("a service that must be built is refused, one with an image beside it warned about", () => {
  expect(say("services:\n  a: {build: .}\n").errors).toEqual(["UNSUPPORTED_BUILD services.a.build"]);
  expect(say("services:\n  a: {build: ., image: b}\n")).toEqual({
    errors: [],
    warnings: ["KEY_IGNORED services.a.build"],
  });
});

test("extension fields are nobody's business, at any depth", () => {
  const text =
    "x-any: {a: [$NOT_SET]}\nservices:\n  a:\n    image: a\n    x-mine: 1\n    deploy: {x-b: 2}\nvolumes:\n  v: {x-c: 3}\n";
  expect(say(text)).toEqual({ errors: [], warnings: [] });
});
