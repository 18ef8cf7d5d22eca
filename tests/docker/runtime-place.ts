/** The Docker runtime as the conformance suite of runtimes takes it, beside the tests' engine. */
import { randomBytes } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { create, toJson } from "@bufbuild/protobuf";
import { expect } from "@jest/globals";
import { createDockerRuntime } from "@bowline/agent-docker";
import { DeploymentSchema } from "@bowline/contract/deployments";
import { removeFolder, startProcess, temporaryFolder, testDocker, type TestDocker } from "@bowline/testing";
import type { Place } from "../conformance/runtimes/suite/place.ts";
import { describeProcess, killForwarderIn, processesWith } from "../conformance/runtimes/suite/processes.ts";

const programFile = fileURLToPath(new URL("../conformance/runtimes/program.js", import.meta.url));
const hostFile = fileURLToPath(new URL("./runtime-host.ts", import.meta.url));
const image = "suite/program:1";

/** What the engine itself waits before the second start. */
const backoffFirstMs = 100;
const logBytes = 64 * 1024;
/** On a busy machine a program in a new container needs more than a second to end at once. */
const times = { settleMs: 2_500 };

/** `forwarderImage`: forwarders are containers of it. */
export async function dockerPlace(forwarderImage?: string): Promise<Place> {
  const docker = await testDocker();
  await docker.importNode(image, { "/program.js": programFile });
  const dataDir = temporaryFolder();
  const token = `token-${randomBytes(6).toString("hex")}`;
  const quiet = () => {};
  const inContainers = forwarderImage === undefined ? {} : { forwarderImage };
  const options = { dataDir, engine: { host: docker.host }, times, logBytes, ...inContainers };
  const leftovers = async (): Promise<string[]> => [
    ...processesWith(token, hostFile).map(describeProcess),
    ...(await labelled(docker, dataDir)).map(({ path }) => path),
    ...(await readdir(join(dataDir, "forwarders")).catch(() => [])),
  ];
  return {
    backoffFirstMs,
    logBytes,
    dataDir,
    hostAddress: "0.0.0.0",
    program: (...args) => ({ image, command: ["node", "/program.js", token, ...args] }),
    open: async () => await createDockerRuntime({ ...options, log: { info: quiet, warn: quiet, error: quiet } }),
    async host(specs, fault) {
      const json = JSON.stringify(specs.map((spec) => toJson(DeploymentSchema, create(DeploymentSchema, spec))));
      const command = ["node", hostFile, JSON.stringify(options), json, ...(fault === undefined ? [] : [fault])];
      const host = startProcess({ command });
      const kill = async (): Promise<void> => {
        host.kill("SIGKILL");
        await host.ended;
      };
      if (fault === undefined) return { end: JSON.parse(await host.untilLine('{"kind"')), kill };
      await host.ended;
      return { kill };
    },
    processes: async () => processesWith(token, hostFile),
    async killForwarder(deploymentId) {
      if (forwarderImage === undefined) return await killForwarderIn(dataDir, deploymentId);
      const mine = (await forwardersOf(docker, deploymentId)).map(({ Id }) => Id);
      expect(mine).toHaveLength(1);
      await docker.ask("POST", `/containers/${mine[0]}/kill`);
    },
    leftovers,
    async remove() {
      for (const { path } of await labelled(docker, dataDir)) await docker.ask("DELETE", `${path}?force=1`);
      await removeFolder(dataDir);
    },
  };
}

/** Containers of its forwarder, whoever made them. */
export async function forwardersOf(
  docker: TestDocker,
  deploymentId: string,
): Promise<{ Id: string; State: string; Labels: Record<string, string> }[]> {
  const label = ["bowline.slot=forwarder", `bowline.deployment=${deploymentId}`];
  const filters = encodeURIComponent(JSON.stringify({ label }));
  return (await docker.ask("GET", `/containers/json?all=1&filters=${filters}`)) as Awaited<
    ReturnType<typeof forwardersOf>
  >;
}

/** Containers, networks and volumes of a place, in the order in which they can be removed. */
async function labelled(docker: TestDocker, dataDir: string): Promise<{ path: string }[]> {
  const identity = await readFile(join(dataDir, "runtime.json"), "utf8").catch(() => undefined);
  if (identity === undefined) return []; // no runtime was ever here
  const label = encodeURIComponent(JSON.stringify({ label: [`bowline.agent=${JSON.parse(identity).id}`] }));
  const containers = (await docker.ask("GET", `/containers/json?all=1&filters=${label}`)) as { Id: string }[];
  const networks = (await docker.ask("GET", `/networks?filters=${label}`)) as { Id: string }[];
  const volumes = (await docker.ask("GET", `/volumes?filters=${label}`)) as { Volumes: { Name: string }[] | null };
  return [
    ...containers.map(({ Id }) => `/containers/${Id}`),
    ...networks.map(({ Id }) => `/networks/${Id}`),
    ...(volumes.Volumes ?? []).map(({ Name }) => `/volumes/${Name}`),
  ].map((path) => ({ path }));
}
