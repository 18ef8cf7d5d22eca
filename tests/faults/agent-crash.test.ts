/**
 * The local agent as a process that is killed at each step of a command, and
 * started again on the same folder. Whatever the step, the command's effect
 * happens once and its result arrives.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { DeployResult_Outcome } from "@bowline/contract/agent";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { startProcess, startScriptedServer, temporaryFolder, until, type ScriptedServer } from "@bowline/testing";

const program = fileURLToPath(new URL("../../agents/local/src/main.ts", import.meta.url));

/** Crash points of the core, in the order in which a command passes them. */
const steps = [
  "intake.before-journal",
  "intake.before-receipt",
  "intake.after-receipt",
  "converge.started",
  "converge.effect",
  "converge.before-result",
  "converge.after-result",
];

function startAgent(server: ScriptedServer, dataDir: string, fault?: string) {
  return startProcess({
    command: ["node", program, "--server", server.url, "--data-dir", dataDir, "--log-format", "json"],
    env: { BOWLINE_REGISTRATION_TOKEN: server.token, BOWLINE_FAULT: fault, BOWLINE_STOP_WORKLOADS_ON_EXIT: "1" },
  });
}

test.each(steps)("killed at %s, an agent carries the command out once and tells its result", async (step) => {
  const server = await startScriptedServer();
  const dataDir = temporaryFolder();
  const traces = join(temporaryFolder(), "starts");
  const deployment = create(DeploymentSchema, {
    id: "deployment_crash",
    generation: 1,
    desired: Deployment_Desired.RUNNING,
    workloads: [{ name: "trace", command: ["/bin/sh", "-c", `echo started >> ${traces}; exec sleep 1000`] }],
  });
  const command = server.command(deployment);

  const first = startAgent(server, dataDir, step);
  (await server.nextSession()).push(command);
  expect(await first.ended).toEqual({ code: null, signal: "SIGKILL" });

  const second = startAgent(server, dataDir);
  const session = await server.nextSession();
  const [known] = session.sync.flatMap(({ journal, results }) => [...journal, ...results]);
  if (step === "intake.before-journal") expect(known).toBeUndefined(); // No receipt was sent, so the server pushes again.
  else expect(known?.commandId).toBe(command.commandId);
  session.push(command);
  expect((await session.result(command)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
  await until(() => existsSync(traces));
  expect(readFileSync(traces, "utf8")).toBe("started\n");

  second.kill("SIGTERM");
  expect(await second.ended).toEqual({ code: 0, signal: null });
  expect(await session.ended).toBe(true);
});
