import { expect, test } from "@jest/globals";
import { parseCompose } from "./parse.ts";
import { composeSchema } from "./schema.ts";
import { nearest } from "./suggest.ts";

function errorsOf(text: string) {
  return parseCompose({ name: "x", files: [{ name: "compose.yaml", text }] }).errors.map(
    ({ reason, path, line, message, advice }) => `${reason} ${path}:${line} ${message}. ${advice}`,
  );
}

test("an unknown key says where, and what was meant", () => {
  expect(errorsOf("services:\n  web:\n    image: a\n    enviroment: {A: 1}\n")).toEqual([
    'SCHEMA_UNKNOWN_KEY services.web.enviroment:4 there is no key "enviroment" here. Did you mean environment?',
  ]);
  expect(errorsOf("service:\n  web: {image: a}\n")[0]).toContain("Did you mean services?");
});

test("an unknown key in a small mapping lists what is allowed", () => {
  expect(errorsOf("services:\n  web:\n    image: a\n    healthcheck:\n      command: x\n")).toEqual([
    'SCHEMA_UNKNOWN_KEY services.web.healthcheck.command:5 there is no key "command" here. ' +
      "Leave it out, or name it x-… if it is yours. Allowed: disable, interval, retries, test, timeout, start_period, start_interval.",
  ]);
});

test("a wrong type says what is wanted, over all forms that are allowed", () => {
  expect(errorsOf("services:\n  web:\n    image: 5\n")).toEqual([
    'SCHEMA_INVALID services.web.image:3 must be a string, and is a whole number. Put it in quotes: "5".',
  ]);
  expect(errorsOf("services:\n  web:\n    image: a\n    command: {a: 1}\n")).toEqual([
    "SCHEMA_INVALID services.web.command:4 must be nothing, a string or a list, and is a mapping. " +
      "Write nothing, a string or a list.",
  ]);
});

test("of several forms the one that was meant explains what is wrong", () => {
  expect(errorsOf("services:\n  web:\n    image: a\n    ports:\n      - {target: 80, publish: 1}\n")).toEqual([
    expect.stringContaining('services.web.ports[0].publish:5 there is no key "publish" here. Did you mean published?'),
  ]);
  expect(errorsOf("services:\n  web:\n    image: a\n    depends_on:\n      db: {condition: service_health}\n")).toEqual(
    [expect.stringMatching(/services\.web\.depends_on\.db\.condition:5 must be .* Did you mean service_healthy\?/)],
  );
});

test.each([
  ["services:\n  web:\n    image: a\n    ports: ['1:1', '1:1']\n", "the same as services.web.ports[0]"],
  ["services:\n  web:\n    image: a\n    volumes: [{target: /a}]\n", "the key type is missing"],
  ["services:\n  'a b': {image: a}\n", '"a b" cannot be a name'],
  ["services:\n  web:\n    image: a\n    pull_policy: sometimes\n", "does not have the form"],
  ["services:\n  web:\n    image: a\n    oom_score_adj: 5000\n", "must be at most 1000, and is 5000"],
  ["services: []\n", "must be a mapping, and is a list"],
  ["- a\n", "a Compose file is a mapping"],
  ["just text\n", "a Compose file is a mapping"],
])("%j is explained", (text, message) => {
  expect(errorsOf(text).join("\n")).toContain(message);
});

test("names of a prototype are keys like others", () => {
  const errors = errorsOf("services:\n  constructor:\n    image: a\n    __proto__: 1\n");
  expect(errors).toEqual([expect.stringContaining('there is no key "__proto__" here')]);
});

test("the explanations know every keyword of the published schema", () => {
  const known = new Set(
    "$schema $id $ref $defs title description default deprecated type enum pattern minimum maximum required properties patternProperties additionalProperties unevaluatedProperties items uniqueItems oneOf anyOf allOf".split(
      " ",
    ),
  );
  const unknown = new Set<string>();
  const named = ["properties", "patternProperties", "$defs"];
  const visit = (node: unknown, names: boolean): void => {
    if (Array.isArray(node)) return node.forEach((item) => visit(item, false));
    if (typeof node !== "object" || node === null) return;
    for (const [key, value] of Object.entries(node)) {
      if (!names && !known.has(key)) unknown.add(key);
      visit(value, !names && named.includes(key));
    }
  };
  visit(composeSchema, false);
  expect([...unknown]).toEqual([]);
});

test.each([
  ["enviroment", "environment"],
  ["depend_on", "depends_on"],
  ["healthCheck", "healthcheck"],
  ["restrat", "restart"],
  ["stop-signal", "stop_signal"],
  ["zzz", undefined],
])("%s is meant to be %s", (word, meant) => {
  expect(nearest(word, ["environment", "depends_on", "healthcheck", "restart", "stop_signal"])).toBe(meant);
});
