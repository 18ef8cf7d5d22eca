/** The local runtime against real processes. */
import { randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { create, toJson } from "@bufbuild/protobuf";
import { createLocalRuntime } from "@bowline/agent-local";
import { DeploymentSchema } from "@bowline/contract/deployments";
import { removeFolder, startProcess, temporaryFolder } from "@bowline/testing";
import { describeRuntime } from "./suite/index.ts";
import type { Place } from "./suite/place.ts";
import { describeProcess, killForwarderIn, processesWith } from "./suite/processes.ts";

const programFile = fileURLToPath(new URL("./program.js", import.meta.url));
const hostFile = fileURLToPath(new URL("./local-host.ts", import.meta.url));

/**
 * Scaled, so that restarts take tests no minutes; the proportions are the real ones. But for `settleMs`: on a busy machine
 * a program that ends at once needs half a second to get so far; and for `stableAfterMs`: there one that is to end lives long.
 */
const times = { backoffFirstMs: 100, backoffMaxMs: 6_000, stableAfterMs: 60_000, settleMs: 1_000, logCutMs: 50 };
const logBytes = 64 * 1024;

async function localPlace(): Promise<Place> {
  const dataDir = temporaryFolder();
  const token = `token-${randomBytes(6).toString("hex")}`;
  const quiet = () => {};
  const options = { dataDir, times, logBytes };
  return {
    backoffFirstMs: times.backoffFirstMs,
    logBytes,
    program: (...args) => ({ image: "suite/program", command: [process.execPath, programFile, token, ...args] }),
    open: async () => await createLocalRuntime({ ...options, log: { info: quiet, warn: quiet, error: quiet } }),
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
    dataDir,
    hostAddress: "127.0.0.1",
    processes: async () => processesWith(token, hostFile),
    killForwarder: (deploymentId) => killForwarderIn(dataDir, deploymentId),
    leftovers: async () => [...processesWith(token, hostFile).map(describeProcess), ...(await foldersIn(dataDir))],
    remove: async () => await removeFolder(dataDir),
  };
}

async function foldersIn(dataDir: string): Promise<string[]> {
  const found: string[] = [];
  for (const kind of ["deployments", "volumes", "forwarders"]) {
    for (const name of await readdir(join(dataDir, kind)).catch(() => [])) found.push(`folder ${kind}/${name}`);
  }
  return found;
}

describeRuntime(
  "local",
  { place: localPlace },
  {
    starting: ["local.before-spawn", "local.after-spawn"],
    // The first start and stop belong to the first generation.
    updating: [
      "local.before-spawn@3",
      "local.after-spawn@4",
      "local.before-stop",
      "local.before-commit@2",
      "local.after-commit@2",
    ],
    removing: ["local.before-removal", "local.before-stop", "local.before-erasure"],
    forwarding: ["local.after-forwards", "local.after-commit"],
  },
);
