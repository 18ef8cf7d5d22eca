/**
 * A package.json tells what a package carries: an agent's lists exactly what
 * reaches a customer's network. npm links every workspace at the root, so an
 * import of one that is not listed works, and goes unnoticed.
 */
import { glob, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { beforeAll, expect, test } from "@jest/globals";

const root = resolve(import.meta.dirname, "../..");

type Manifest = {
  name: string;
  private?: boolean;
  license?: string;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
};

const manifests = new Map<string, Manifest>();

beforeAll(async () => {
  const { workspaces } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as { workspaces: string[] };
  for await (const path of glob(["package.json", ...workspaces.map((folder) => `${folder}/package.json`)], {
    cwd: root,
  })) {
    manifests.set(
      path.replace(/\/?package\.json$/, ""),
      JSON.parse(await readFile(join(root, path), "utf8")) as Manifest,
    );
  }
});

test("a package lists every package of the house that its code imports", async () => {
  for (const [folder, manifest] of manifests) {
    if (folder === "") continue;
    const imported = new Set<string>();
    for await (const path of glob(`${folder}/{src,bin}/**/*.{ts,tsx,js}`, { cwd: root })) {
      if (path.endsWith(".test.ts") || path.includes("node_modules")) continue;
      const source = await readFile(join(root, path), "utf8");
      for (const [, name = ""] of source.matchAll(/(?:from|import)\s*\(?\s*"(@bowline\/[^/"]+)/g)) imported.add(name);
    }
    const listed = Object.keys(manifest.dependencies ?? {}).filter((name) => name.startsWith("@bowline/"));
    expect({ folder, missing: [...imported].filter((name) => !listed.includes(name)) }).toEqual({
      folder,
      missing: [],
    });
  }
});

test("an agent's packages carry no database and no server", () => {
  const ofServer = ["pg", "kysely", "ioredis", "fastify", "@bowline/db", "@bowline/rest", "@bowline/control-plane"];
  for (const [folder, manifest] of manifests) {
    if (!folder.startsWith("agents/")) continue;
    const carried = Object.keys({ ...manifest.dependencies, ...manifest.optionalDependencies });
    expect({ folder, carried: carried.filter((name) => ofServer.includes(name)) }).toEqual({ folder, carried: [] });
  }
});

test("every version is exact, and everything is private and Apache-2.0", () => {
  for (const [folder, manifest] of manifests) {
    const all = { ...manifest.dependencies, ...manifest.devDependencies, ...manifest.optionalDependencies };
    const loose = Object.entries(all).filter(([, version]) => !/^\d+\.\d+\.\d+(-[\w.]+)?$/.test(version));
    expect({ folder, loose, license: manifest.license, private: manifest.private }).toEqual({
      ...{ folder, loose: [] },
      ...{ license: "Apache-2.0", private: true },
    });
  }
});

test("the lock file has every package that one in it asks for, so that npm ci works on every platform", async () => {
  const lock = JSON.parse(await readFile(join(root, "package-lock.json"), "utf8")) as {
    packages: Record<string, Manifest>;
  };
  const missing: string[] = [];
  for (const [path, { dependencies, optionalDependencies }] of Object.entries(lock.packages)) {
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      // As Node looks: in the folder itself, then in each one above.
      const above = path.split("/").map((_, depth, parts) => parts.slice(0, depth + 1).join("/"));
      const found = ["", ...above].some((folder) => `${folder && `${folder}/`}node_modules/${name}` in lock.packages);
      if (!found) missing.push(`${path || "bowline"} asks for ${name}`);
    }
  }
  expect(missing).toEqual([]);
});
