/** An agent beside a real Docker Engine, started as people start it. */
import { expect, test } from "@jest/globals";
import { startProcess, temporaryFolder, testDatabase, testDocker, until } from "@bowline/testing";
import { programs, startServer } from "../e2e/fixture.ts";
import { freshName } from "../e2e/operating.ts";

/** On two busy cores. */
const settledWithinMs = 45_000;

const docker = await testDocker();

test("`agent join --runtime docker` enrols a Docker host, which says what its engine is; no local cluster takes it", async () => {
  const { api, url } = await startServer({ databaseUrl: (await testDatabase()).url });
  const join = (token: string, host: string) =>
    startProcess({
      command: [
        ...["node", programs.cli, "agent", "join", url, "--runtime", "docker", "--docker-host", host],
        ...["--data-dir", temporaryFolder(), "--log-format", "json"],
      ],
      env: { BOWLINE_REGISTRATION_TOKEN: token },
    });
  const clusterOf = async (runtime: string) =>
    await api.clusters.createCluster({ cluster: { name: freshName("cluster"), runtime } });
  const tokenFor = async (clusterId: string) => (await api.tokens.createRegistrationToken({ clusterId })).token;

  const hosts = await clusterOf("docker");
  const joined = join(await tokenFor(hosts.id), docker.host);
  const agent = await until(
    async () => (await api.agents.listAgents({ clusterId: hosts.id })).agents.find(({ epoch }) => epoch > 0n),
    { withinMs: settledWithinMs, what: "a Docker agent with a session" },
  );
  expect(agent).toMatchObject({
    runtime: "docker",
    runtimeProblem: "",
    runtimeVersion: expect.stringMatching(/^Docker \d.*, API 1\.\d+$/),
  });

  const foreign = join(await tokenFor((await clusterOf("local")).id), docker.host);
  expect(await foreign.ended).toMatchObject({ code: 4 });
  expect(foreign.output()).toContain("CLUSTER_MISMATCH");

  const lost = join(await tokenFor(hosts.id), "unix:///nowhere/docker.sock");
  expect(await lost.ended).toMatchObject({ code: 1 });
  expect(lost.output()).toContain("the Docker Engine does not answer");
  const open = join(await tokenFor(hosts.id), "tcp://192.0.2.1:2375");
  expect(await open.ended).toMatchObject({ code: 1 });
  expect(open.output()).toMatch(/CONFIG_INVALID: .*--docker-cert-path/);

  await joined.end();
});
