/** A runtime of this process beside the tests' engine, in the words of the tests of this folder. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import type { ConvergeEnd, ConvergeProgress, Runtime } from "@bowline/agent-core";
import { createDockerRuntime, type DockerRuntimeOptions } from "@bowline/agent-docker";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { atEnd, temporaryFolder, testDocker, type TestDocker } from "@bowline/testing";
import type { DeploymentInit, WorkloadInit } from "../conformance/runtimes/suite/place.ts";

export type { DeploymentInit, WorkloadInit };

/** Small, and with a shell. */
export const busybox = "testing/busybox:1";

/** Seconds of nothing, ended by SIGTERM at once. */
export const idle = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"];

export interface Beside {
  docker: TestDocker;
  readonly runtime: Runtime;
  /** Ends the runtime, not what it runs, and opens another one on its folder when `meanwhile` is done. */
  reopen: (meanwhile: () => Promise<void>) => Promise<void>;
  /** All that the runtime said in its log. */
  log: () => string;
  /** Converges to the next generation of the deployment. */
  run: (workloads: WorkloadInit[], rest?: DeploymentInit) => Promise<ConvergeEnd>;
  /** What was reported of the last converge. */
  reports: ConvergeProgress[];
  /** Containers of this runtime, also ended ones, as the engine inspects them. */
  // oxlint-disable-next-line typescript/no-explicit-any -- the engine's own words, looked at by tests only
  containers: () => Promise<any[]>;
  /** What a command says inside of a container. */
  exec: (container: string, ...command: string[]) => Promise<string>;
}

/** Its deployment, with volumes, is removed at the end of the test. */
export async function besideEngine(options: Partial<DockerRuntimeOptions> = {}, engine?: TestDocker): Promise<Beside> {
  const docker = engine ?? (await testDocker());
  await docker.importBusybox(busybox);
  const dataDir = options.dataDir ?? temporaryFolder();
  let log = "";
  const say = (facts: Record<string, unknown>, message: string) =>
    void (log += `${message} ${JSON.stringify(facts)}\n`);
  const open = (): Promise<Runtime> =>
    createDockerRuntime({
      dataDir,
      engine: { host: docker.host },
      times: { settleMs: 300 },
      ...options,
      log: { info: say, warn: say, error: say },
    });
  let runtime = await open();
  const id = "deployment_beside";
  let generation = 0;
  const reports: ConvergeProgress[] = [];
  const run = async (workloads: WorkloadInit[], rest: DeploymentInit = {}): Promise<ConvergeEnd> => {
    generation += 1;
    reports.length = 0;
    const spec = { id, generation, desired: Deployment_Desired.RUNNING, workloads, ...rest };
    const report = (progress: ConvergeProgress) => void reports.push(progress);
    return await runtime.converge(create(DeploymentSchema, spec), report, new AbortController().signal);
  };
  atEnd(async () => {
    const end = await run([], { desired: Deployment_Desired.ABSENT, removeVolumes: true });
    await runtime.close({ stopWorkloads: true });
    if (end.kind !== "succeeded") throw new Error(`its deployment is not removed: ${JSON.stringify(end)}`);
  });
  const own = (): string => {
    const { id: agent } = JSON.parse(readFileSync(join(dataDir, "runtime.json"), "utf8")) as { id: string };
    return encodeURIComponent(JSON.stringify({ label: [`bowline.agent=${agent}`] }));
  };
  return {
    docker,
    get runtime() {
      return runtime;
    },
    async reopen(meanwhile) {
      await runtime.close({ stopWorkloads: false });
      await meanwhile();
      runtime = await open();
    },
    log: () => log,
    run,
    reports,
    async containers() {
      const all = (await docker.ask("GET", `/containers/json?all=1&filters=${own()}`)) as { Id: string }[];
      return await Promise.all(all.map(({ Id }) => docker.ask("GET", `/containers/${Id}/json`)));
    },
    async exec(container, ...Cmd) {
      const { Id } = (await docker.ask("POST", `/containers/${container}/exec`, {
        ...{ Cmd, AttachStdout: true, AttachStderr: true, Tty: true },
      })) as { Id: string };
      return String(await docker.ask("POST", `/exec/${Id}/start`, { Tty: true })).trim();
    },
  };
}
