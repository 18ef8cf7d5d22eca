/** Others' containers on a Docker host, and what the host's owner denies: through a real server and agent. */
import { expect, test } from "@jest/globals";
import { ForeignContainer_State } from "@bowline/contract/agents";
import { Stack_State as State } from "@bowline/contract/stacks";
import { atEnd, until } from "@bowline/testing";
import { refusal } from "../e2e/api.ts";
import { online } from "../e2e/operating.ts";
import { busybox, idle } from "./beside.ts";
import { dockerHosts, settledWithinMs } from "./stacks.fixture.ts";

const own = `
services:
  web: { image: ${busybox}, command: ${JSON.stringify(idle)}, cap_add: [NET_BIND_SERVICE] }`;

test("others' containers are told where the cluster's policy asks for it, ours not; what the host's owner denies nobody gets", async () => {
  const { docker, api, bowline, cluster, agents, apply, reaches, running } = await dockerHosts(["a"], {
    policy: { allowedCapabilities: ["NET_BIND_SERVICE"] },
  });
  const [agent] = agents;
  if (agent === undefined) throw new Error("there is no agent");
  const { Id: stranger } = (await docker.ask("POST", "/containers/create?name=strangers-db", {
    ...{ Image: busybox, Cmd: [...idle, "--password=hunter2"], Env: ["PASSWORD=hunter2"] },
    ...{ Labels: { "com.docker.compose.project": "theirs" }, HostConfig: { NetworkMode: "none" } },
  })) as { Id: string };
  atEnd(() => docker.ask("DELETE", `/containers/${stranger}?force=1`).then(() => undefined));
  await docker.ask("POST", `/containers/${stranger}/start`);
  await apply("own", own);
  await reaches("own", State.RUNNING);
  const id = await agent.id();
  const list = () => api.agents.listForeignContainers({ agent: id, pageSize: 1000 });

  expect(await refusal(list())).toMatchObject({ reason: "FOREIGN_CONTAINERS_NOT_REPORTED" });
  expect((await bowline("cluster", "update", cluster, "--report-foreign-containers")).code).toBe(0);
  const { containers } = await list();
  const ours = await running("own");
  expect(ours).toHaveLength(1);
  expect(containers.map((one) => one.id)).not.toContain(ours[0]);
  expect(containers.find((one) => one.id === stranger)).toMatchObject({
    ...{ name: "strangers-db", image: busybox, state: ForeignContainer_State.RUNNING, networks: ["none"] },
    ...{ status: expect.stringContaining("Up"), composeProject: "theirs", bowlineAgent: "" },
  });
  const typed = await bowline("agent", "containers", id, "--name", "strangers", "-o", "json");
  expect(JSON.parse(typed.stdout)).toMatchObject({ containers: [{ id: stranger }] });
  expect(typed.stdout).not.toContain("hunter2");

  await agent.kill();
  const denying = agent.again({ env: { BOWLINE_AGENT_DENY: "capabilities,foreign-containers" } });
  await online(api, denying);
  expect(await refusal(list())).toMatchObject({ reason: "DENIED_BY_HOST" });
  await api.stacks.restartStack({ id: "own" });
  const failed = await reaches("own", State.FAILED);
  expect(failed).toMatchObject({
    reason: "DENIED_BY_HOST",
    message: expect.stringContaining("capAdd NET_BIND_SERVICE"),
  });
  expect(await running("own")).toEqual(ours);
  await api.stacks.downStack({ id: "own" });
  await until(async () => (await refusal(api.stacks.getStack({ id: "own" }))).reason === "NOT_FOUND", {
    withinMs: settledWithinMs,
    what: "the stack is gone, though its host denies what it wanted",
  });
  expect(await docker.ask("GET", `/containers/${stranger}/json`)).toMatchObject({ State: { Running: true } });
});
