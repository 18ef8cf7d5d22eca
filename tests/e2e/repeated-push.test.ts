/** A command that is pushed again and again, as a server does that got no receipt: one start, one effect, one outcome. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { CommandReceipt_Disposition as Receipt, DeployResult_Outcome } from "@bowline/contract/agent";
import { Deployment_Desired, DeploymentSchema } from "@bowline/contract/deployments";
import { startProcess, startScriptedServer, temporaryFolder, until } from "@bowline/testing";
import { programs } from "./fixture.ts";

test("a command that is pushed five times, over two sessions, runs once", async () => {
  const server = await startScriptedServer();
  const traces = join(temporaryFolder(), "starts");
  const agent = startProcess({
    command: [
      ...["node", programs.agent, "--server", server.url, "--data-dir", temporaryFolder()],
      ...["--log-format", "json"],
    ],
    env: { BOWLINE_REGISTRATION_TOKEN: server.token, BOWLINE_STOP_WORKLOADS_ON_EXIT: "1" },
  });
  const command = server.command(
    create(DeploymentSchema, {
      id: "deployment_pushed",
      generation: 1,
      desired: Deployment_Desired.RUNNING,
      workloads: [{ name: "trace", command: ["/bin/sh", "-c", `echo started >> ${traces}; exec sleep 1000`] }],
    }),
  );
  server.ways.acknowledge = undefined; // the agent keeps its result
  const first = await server.nextSession();
  for (let count = 0; count < 2; count += 1) first.push(command); // the second while it fetches
  await first.receipt(command);
  expect((await first.result(command)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
  await until(() => readFileSync(traces, "utf8") === "started\n"); // it runs; the shell is there a moment later
  first.push(command);
  await until(() => first.resultsOf(command).length > 1);
  const receipts = first.received.flatMap((message) =>
    message.case === "commandReceipt" ? [message.value.disposition] : [],
  );
  expect(receipts.filter((disposition) => disposition === Receipt.ACCEPTED)).toHaveLength(1);

  first.drop();
  const second = await server.nextSession();
  server.ways.acknowledge = 1;
  second.push(command);
  expect((await second.result(command)).outcome).toBe(DeployResult_Outcome.SUCCEEDED);
  second.push(command); // after its outcome was acknowledged, too
  await until(() => second.resultsOf(command).length > 1);

  expect(readFileSync(traces, "utf8")).toBe("started\n");
  expect(agent.output().match(/"msg":"command ended"/g)).toHaveLength(1);
  agent.kill("SIGTERM");
  expect(await agent.ended).toEqual({ code: 0, signal: null });
});
