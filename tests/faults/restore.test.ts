/**
 * The database goes back, its agents do not: with the owner's own commands, real
 * agents and their data planes. What is asked and answered case by case is in
 * tests/e2e/histories.test.ts.
 */
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { AcceptAgentRequest_Side as Side, Agent_State } from "@bowline/contract/agents";
import { isRunning, runProcess, temporaryFolder, testDatabase, until } from "@bowline/testing";
import { programs, startServer, type TestAgent } from "../e2e/fixture.ts";
import { joinAgent, makePlace, type Serving, publishVersion, serving } from "../e2e/operating.ts";
import { servedVersion, startConsumer, startUpstream } from "../e2e/requests.ts";

/** A reconnect waits up to a minute; cold starts share two cores. */
const withinMs = 120_000;
const testWithinMs = 480_000;

async function bowline(words: readonly string[], databaseUrl?: string): Promise<void> {
  const command = [process.execPath, programs.server, ...words];
  const { code, output } = await runProcess({ command, env: { BOWLINE_DATABASE_URL: databaseUrl } });
  if (code !== 0) throw new Error(`bowline server ${words.join(" ")}: ${output}`);
}

async function inState(serving: Serving, state: Agent_State): Promise<void> {
  const id = await serving.agent.id();
  await until(async () => (await serving.place.api.agents.getAgent({ id })).state === state, {
    ...{ withinMs, what: `agent ${id} is in state ${state}` },
  });
}

const serves = (url: string, version: string) =>
  until(async () => (await servedVersion(url)) === version, { withinMs, what: `${url} serves version ${version}` });

const refusedForGood = async (agent: TestAgent) => expect(await agent.process.ended).toMatchObject({ code: 4 });

test(
  "after a restore to before the last ten publishes nothing is rolled back or removed, the operator is asked, both answers work, and a revoked agent stays out",
  async () => {
    const database = await testDatabase();
    const upstream = await startUpstream();
    const server = await startServer({ databaseUrl: database.url });
    const { dataDir, port, api } = server;
    const back = await serving(api, upstream); // will get the server's side
    const ahead = await serving(api, upstream); // will keep its own
    const before = await joinAgent(await makePlace(api)); // revoked before the backup
    const since = await joinAgent(await makePlace(api)); // revoked after it
    await api.agents.revokeAgent({ id: await before.id() });
    await refusedForGood(before);
    const folder = join(temporaryFolder(), "backup");
    await bowline(["backup", folder, "--data-dir", dataDir], database.url);

    await api.agents.revokeAgent({ id: await since.id() });
    await refusedForGood(since);
    for (const version of ["2", "3", "4", "5", "6"]) {
      await publishVersion(back, upstream, version);
      await publishVersion(ahead, upstream, version);
    }
    const consumers = [back, ahead].map(({ url }) => startConsumer(url));
    server.process.kill("SIGTERM");
    await server.process.ended;
    const restored = await testDatabase({ migrated: false });
    await bowline(["restore", folder, "--data-dir", dataDir], restored.url);
    const again = await startServer({ databaseUrl: restored.url, dataDir, port });
    expect(await again.api.installation.getInstallation({})).toMatchObject({ dispatchHeld: true });
    for (const one of [back, ahead]) {
      await inState(one, Agent_State.AWAITING_DECISION);
      expect(await servedVersion(one.url)).toBe("6");
    }

    // Who was revoked before is known. Who was revoked since is revoked again, before anything goes out.
    await refusedForGood(before.again());
    expect(await again.api.agents.getAgent({ id: await since.id() })).toMatchObject({ state: Agent_State.ENROLLED });
    await again.api.agents.revokeAgent({ id: await since.id() });
    await refusedForGood(since.again());

    await again.api.agents.acceptAgent({ id: await back.agent.id(), side: Side.SERVER });
    await again.api.agents.acceptAgent({ id: await ahead.agent.id(), side: Side.AGENT });
    for (const one of [back, ahead]) {
      await inState(one, Agent_State.ENROLLED);
      expect(await servedVersion(one.url)).toBe("6"); // dispatch is held
    }
    expect(await again.api.installation.confirmRestore({})).toMatchObject({ agentsAwaitingDecision: 0 });
    await serves(back.url, "1"); // what the restored database wants
    await publishVersion(back, upstream, "7");
    await serves(back.url, "7");
    expect(await servedVersion(ahead.url)).toBe("6");
    await publishVersion(ahead, upstream, "7");
    await serves(ahead.url, "7");
    for (const { agent, dataPlane } of [back, ahead]) {
      expect(agent.dataPlanes()).toEqual([dataPlane]); // the same process, all the time
      expect(isRunning(dataPlane)).toBe(true);
    }
    for (const consumer of consumers) expect(await consumer.stop()).toEqual([]);
  },
  testWithinMs,
);

test(
  "a snapshot of the embedded database that was put back by hand is told with `restored`, and the operator is asked",
  async () => {
    const upstream = await startUpstream();
    const server = await startServer();
    const one = await serving(server.api, upstream);
    const stopped = async (which: typeof server) => {
      which.process.kill("SIGTERM");
      await which.process.ended;
    };
    await stopped(server);
    const snapshot = join(temporaryFolder(), "postgres");
    const postgres = join(server.dataDir, "postgres");
    await runProcess({ command: ["cp", "-a", postgres, snapshot] });
    const newer = await server.again();
    await publishVersion(one, upstream, "2");
    const { incarnation } = await newer.api.installation.getInstallation({});
    await stopped(newer);
    await runProcess({ command: ["rm", "-r", postgres] });
    await runProcess({ command: ["cp", "-a", snapshot, postgres] });
    await bowline(["restored", "--data-dir", server.dataDir]);

    const again = await newer.again();
    const now = await again.api.installation.getInstallation({});
    expect(now.dispatchHeld).toBe(true);
    expect(now.incarnation).toBeGreaterThan(incarnation);
    await inState(one, Agent_State.AWAITING_DECISION);
    expect(await servedVersion(one.url)).toBe("2");
    await again.api.installation.confirmRestore({});
    await again.api.agents.acceptAgent({ id: await one.agent.id(), side: Side.SERVER });
    await serves(one.url, "1");
    expect(one.agent.dataPlanes()).toEqual([one.dataPlane]);
  },
  testWithinMs,
);
