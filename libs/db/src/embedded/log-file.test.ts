import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { openLogFile } from "./log-file.ts";

test("a log that is written for ever stays below two files of 4 MiB, and keeps the newest", () => {
  const path = join(temporaryFolder(), "postgres.log");
  const log = openLogFile(path);
  const chunk = Buffer.from(`${"x".repeat(1023)}\n`.repeat(1024));
  for (let written = 0; written < 20; written += 1) log.write(chunk);
  log.write(Buffer.from("the newest line\n"));
  log.close();
  expect(statSync(path).size + statSync(`${path}.1`).size).toBeLessThanOrEqual(8 * 1024 * 1024);
  expect(readFileSync(path, "utf8")).toMatch(/the newest line\n$/);
});

test("lines are told whole, however they arrive", () => {
  const log = openLogFile(join(temporaryFolder(), "postgres.log"));
  const lines: string[] = [];
  const stop = log.onLine((line) => lines.push(line));
  for (const part of ["one\ntw", "o\nthr", "ee"]) log.write(Buffer.from(part));
  expect(lines).toEqual(["one", "two"]);
  stop();
  log.write(Buffer.from("\n"));
  expect(lines).toEqual(["one", "two"]);
  expect(log.tail()).toBe("one\ntwo\nthree");
  log.close();
});
