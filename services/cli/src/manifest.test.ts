import { readFileSync } from "node:fs";
import { expect, test } from "@jest/globals";
import { Failure } from "./failure.ts";
import { readManifest } from "./manifest.ts";

const hello = readFileSync(new URL("../../../examples/hello/product.yaml", import.meta.url), "utf8");

function problems(text: string): readonly string[] {
  try {
    readManifest("p.yaml", text);
  } catch (error) {
    if (error instanceof Failure) return error.details.lines ?? [];
    throw error;
  }
  return [];
}

test("the example is a manifest with two routes and a backend", () => {
  const { manifest } = readManifest("p.yaml", hello);
  expect(manifest.name).toBe("hello");
  expect(manifest.apiServices[0]?.routes.map(({ name }) => name)).toEqual(["time", "hello"]);
  expect(manifest.apiServices[0]?.backends[0]?.url).toBe("http://127.0.0.1:9101");
});

test("bad YAML is told with file, line and column", () => {
  expect(problems("name: [\nb")[0]).toMatch(/^p\.yaml:2:\d+: /);
});

test("a misspelt key is an error at its place, not ignored", () => {
  const lines = problems(hello.replace("requestTimeout", "requestTimeot"));
  expect(lines[0]).toMatch(/^p\.yaml:24:\d+: apiServices\[0\]\.routes\[0\]\.requestTimeot: is not known/);
});

test("a value of another kind is told with what belongs there", () => {
  const lines = problems(
    hello.replace("type: EXACT", "type: EXAKT").replace("connectTimeout: 2s", "connectTimeout: 2"),
  );
  expect(lines[0]).toMatch(/path\.type: must be EXACT or PREFIX or REGEX/);
  expect(lines[1]).toMatch(/connectTimeout: must be a time in seconds/);
});

test("a file of another kind is refused", () => {
  expect(problems("apiVersion: v1\nkind: Pod\nname: x")).toEqual([
    "p.yaml:1:13: apiVersion: must be bowline/v1",
    "p.yaml:2:7: kind: must be Product",
    "Nothing was sent.",
  ]);
  expect(problems("- a\n- b")[0]).toMatch(/a mapping .* belongs here/);
});

test("a violation that the server names is led back to the file, in either spelling", () => {
  const read = readManifest("p.yaml", hello);
  const description = "must start with /";
  const line = "p.yaml:20:41: apiServices[0].routes[0].matches[0].path.value: must start with /";
  expect(read.locate({ field: "manifest.api_services[0].routes[0].matches[0].path.value", description })).toBe(line);
  expect(read.locate({ field: "apiServices[0].routes[0].matches[0].path.value", description })).toBe(line);
  expect(read.locate({ field: "api_services[0].routes[0].hostnames[3]", description: "x" })).toMatch(/^p\.yaml:18:/);
});
