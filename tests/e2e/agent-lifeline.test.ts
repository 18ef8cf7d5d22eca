/** An agent whose parent is gone stops what it runs, also what does not want to stop, and leaves nothing. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { DeployResult_Outcome } from "@bowline/contract/agent";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { atEnd, isRunning, runProcess, startScriptedServer, temporaryFolder, until } from "@bowline/testing";

const program = fileURLToPath(new URL("../../agents/local/src/main.ts", import.meta.url));
/** What a parent waits for before it kills. */
const promisedMs = 8_000;

test("when the lifeline ends, a workload that ignores SIGTERM is stopped too, within 8 s", async () => {
  const server = await startScriptedServer();
  const pidFile = join(temporaryFolder(), "pid");
  const args = [program, "--server", server.url, "--data-dir", temporaryFolder(), "--lifeline-stdin"];
  const agent = spawn(process.execPath, args, {
    env: { ...process.env, BOWLINE_REGISTRATION_TOKEN: server.token },
    stdio: ["pipe", "ignore", "ignore"],
  });
  atEnd(() => void agent.kill("SIGKILL"));
  const script = `trap '' TERM; echo $$ > ${pidFile}; while :; do sleep 1; done`;
  const session = await server.nextSession();
  const command = server.command(
    create(DeploymentSchema, {
      id: "deployment_stubborn",
      generation: 1,
      desired: Deployment_Desired.RUNNING,
      workloads: [{ name: "stubborn", command: ["/bin/sh", "-c", script], stopGrace: { seconds: 60n } }],
    }),
  );
  session.push(command);
  expect((await session.result(command)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
  const pid = await until(() => Number(readFileSync(pidFile, "utf8"))); // it is empty for a moment

  const ended = once(agent, "exit");
  const from = performance.now();
  agent.stdin.end();
  expect(await ended).toEqual([0, null]);
  expect(performance.now() - from).toBeLessThan(promisedMs);
  expect(isRunning(pid)).toBe(false);
  expect(await session.ended).toBe(true);
});

test("an agent without a token, and one whose settings are wrong, say so in one line and their exit code", async () => {
  const run = (...args: string[]) =>
    runProcess({
      command: ["node", program, "--data-dir", temporaryFolder(), "--log-level", "silent", ...args],
      env: { BOWLINE_REGISTRATION_TOKEN: undefined, BOWLINE_REGISTRATION_TOKEN_FILE: undefined },
    });
  const [without, wrong] = await Promise.all([
    run("--server", "http://127.0.0.1:1"),
    run("--server", "http://example.com"),
  ]);
  expect(without).toMatchObject({
    code: 4,
    stderr: expect.stringMatching(/^bowline agent: REGISTRATION_TOKEN_MISSING: .*\n$/),
  });
  expect(wrong).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^bowline agent: CONFIG_INVALID: .*--insecure.*\n$/),
  });
});
