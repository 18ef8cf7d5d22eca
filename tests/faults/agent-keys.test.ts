/**
 * An agent that is killed at each step of replacing its keys, or whose answer
 * gets lost: it signs in with whichever key the server has, the server has
 * exactly one, and what was asked for is done.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "@jest/globals";
import { runProcess, testDatabase, until } from "@bowline/testing";
import { programs, type Server, startServer } from "../e2e/fixture.ts";
import { issueToken, makePlace, online } from "../e2e/operating.ts";
import { startAgent } from "../e2e/fixture.ts";

/** On two busy cores. */
const withinMs = 60_000;

let server: Server;
beforeAll(async () => {
  server = await startServer({ databaseUrl: (await testDatabase()).url });
}, withinMs);

/** In the order in which a change passes them: before the call, after its answer, after the switch on the disk. */
const steps = ["rotation.prepared", "rotation.answered", "rotation.promoted"];

test.each(steps)(
  "killed at %s, an agent comes back by itself with new keys, and the keys before open nothing",
  async (step) => {
    const { api } = server;
    const place = await makePlace(api);
    const agent = startAgent(server.url, { token: await issueToken(place), env: { BOWLINE_FAULT: step } });
    await online(api, agent);
    const id = await agent.id();
    const before = (await api.agents.getAgent({ id })).keyThumbprint;
    const asked = runProcess({
      command: ["node", programs.agent, "rotate-key", "--data-dir", agent.dataDir, "--wait", "60", "--output", "json"],
    });
    expect(await agent.process.ended).toEqual({ code: null, signal: "SIGKILL" });
    const atServer = (await api.agents.getAgent({ id })).keyThumbprint;
    expect(atServer === before).toBe(step === "rotation.prepared");

    const again = agent.again();
    await online(api, again);
    const { after } = JSON.parse((await asked).stdout) as { after: string };
    await until(async () => (await api.agents.getAgent({ id })).keyThumbprint === after, { withinMs });
    expect(after).not.toBe(before);
    await until(() => !readdirSync(agent.dataDir).some((file) => file === "next-keys.json"), { withinMs });
    await until(() => !existsSync(join(agent.dataDir, "rotate-key.json")), { withinMs });
    const { auditEvents } = await api.audit.listAuditEvents({ actionPrefix: "agent.rotate-key" });
    expect(auditEvents.filter((event) => event.resourceId === id)).toHaveLength(1);
  },
);
