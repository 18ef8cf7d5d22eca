/** An agent that is there and takes what it is told, but never says so. */
import { expect, test } from "@jest/globals";
import { Command_State as State } from "@bowline/contract/commands";
import { startServer, until } from "@bowline/testing";
import { sql } from "kysely";
import { metric } from "../e2e/metrics.ts";

/** A session is not closed for want of a receipt before the replica has looked on for a minute. */
const lookedOnMs = 90_000;

test("a command that three sessions took without a receipt is FAILED as NOT_RECEIVED, and the agent may come again", async () => {
  const server = await startServer({ flags: ["--silence-limit-ms", "600000"] });
  const agent = await server.scriptedAgent({ cluster: "silent" });
  await server.operator.publish("silent", { to: "silent" });
  const { commandId } = await agent.nextCommand();
  const { db } = server.database;
  for (let sessions = 1; sessions <= 3; sessions += 1) {
    if (sessions > 1) expect((await agent.nextCommand({ of: commandId })).commandId).toBe(commandId);
    // The first session lives its minute; of the others the rows say that they have.
    if (sessions > 1) {
      const before = sql<Date>`now() - interval '2 minutes'`;
      await db.updateTable("sessions").set({ opened_at: before }).where("agent_id", "=", agent.agentId).execute();
      await db.updateTable("command_states").set({ assigned_at: before }).where("command_id", "=", commandId).execute();
    }
    await until(
      async () => {
        const row = await db
          .selectFrom("sessions")
          .selectAll()
          .where("agent_id", "=", agent.agentId)
          .executeTakeFirst();
        return row?.state === "ENDED" && row.end_reason === "NO_RECEIPT";
      },
      { withinMs: lookedOnMs, what: `session ${sessions} is closed` },
    );
    await agent.session().ended;
    const { state, reason } = await server.operator.command(commandId);
    if (sessions < 3) expect(state).toBe(State.ASSIGNED);
    else expect({ state, reason }).toEqual({ state: State.FAILED, reason: "NOT_RECEIVED" });
    if (sessions < 3) await agent.connect();
  }
  expect(await metric(server, 'bowline_sessions_ended_total{transport="stream",reason="NO_RECEIPT"}')).toBe(3);
  expect((await agent.connect()).greeting.epoch).toBe(4);
});
