import { existsSync, mkdirSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { findBinaries, linkLibraries } from "./binaries.ts";

test("the programs are those of PostgreSQL 18, and their libraries' links are there", () => {
  const { root, major, version } = findBinaries();
  expect(major).toBe("18");
  expect(version).toMatch(/^18\.\d+$/);
  for (const file of ["bin/postgres", "bin/initdb", "lib/libpq.so.5"]) expect(existsSync(join(root, file))).toBe(true);
});

test("links that npm did not make, because it runs no install scripts, are made; twice changes nothing", () => {
  const folder = temporaryFolder();
  mkdirSync(join(folder, "native", "lib"), { recursive: true });
  writeFileSync(join(folder, "native", "lib", "libpq.so.5.18"), "");
  const links = [{ source: "native/lib/libpq.so.5.18", target: "native/lib/libpq.so.5" }];
  writeFileSync(join(folder, "native", "pg-symlinks.json"), JSON.stringify(links));
  linkLibraries(folder, "a package");
  linkLibraries(folder, "a package");
  expect(readlinkSync(join(folder, "native", "lib", "libpq.so.5"))).toBe("libpq.so.5.18");
});
