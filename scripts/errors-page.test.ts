import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { failureReasons } from "../agents/core/src/runtime.ts";
import { reasons } from "../libs/kernel/src/errors.ts";
import { errorsPage, errorsPagePath } from "./errors-page.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

test("docs/errors.md says what the tables say (else: npm run docs:errors)", async () => {
  expect(await readFile(errorsPagePath, "utf8")).toBe(errorsPage());
});

/** Tests, and the suites that tests share. The kernel's own name reasons without provoking them. */
async function testTexts(): Promise<string[]> {
  const paths: string[] = [];
  for (const folder of ["libs", "services", "agents", "tests"]) {
    for (const entry of await readdir(join(root, folder), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (!entry.isFile() || path.includes("node_modules") || path.includes("libs/kernel")) continue;
      if (path.endsWith(".test.ts") || (folder === "tests" && path.endsWith(".ts"))) paths.push(path);
    }
  }
  return Promise.all(paths.map((path) => readFile(path, "utf8")));
}

test("every reason is provoked by a test somewhere", async () => {
  const words = new Set((await testTexts()).flatMap((text) => text.match(/\b[A-Z]+(?:_[A-Z]+)*\b/g) ?? []));
  const listed = [...Object.keys(reasons), ...Object.keys(failureReasons)];
  expect(listed.filter((reason) => !words.has(reason))).toEqual([]);
});

test("every reason of the API is used by the code", async () => {
  const used = new Set<string>();
  for (const folder of ["libs", "services", "agents"]) {
    for (const entry of await readdir(join(root, folder), { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath, entry.name);
      if (!entry.isFile() || !path.endsWith(".ts") || path.endsWith(".test.ts")) continue;
      if (path.includes("node_modules") || path.includes("libs/kernel/src/errors.ts")) continue;
      for (const [, word = ""] of (await readFile(path, "utf8")).matchAll(/"([A-Z]+(?:_[A-Z]+)*)"/g)) used.add(word);
    }
  }
  expect(Object.keys(reasons).filter((reason) => !used.has(reason))).toEqual([]);
});
