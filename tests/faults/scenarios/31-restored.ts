/** The database goes back to a backup, with the commands of its owner; its agents do not. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { AcceptAgentRequest_Side as Side, Agent_State } from "@bowline/contract/agents";
import { databaseAt, databaseProxy, runProcess, startEmbeddedPostgres, temporaryFolder } from "@bowline/testing";
import type { Scenario } from "../scenario.ts";
import { installWitness, witnessed } from "../world/witness.ts";
import type { World } from "../world/world.ts";

const program = fileURLToPath(new URL("../../../services/control-plane/src/main.ts", import.meta.url));
/** A reconnect waits up to a minute. */
const withinMs = 90_000;

export const restored: Scenario = {
  number: 31,
  title:
    "the database restored from a backup: nothing is sent, rolled back or removed before an operator decides, and then one side counts",
  tries: ["A", "B", "D", "F", "H", "I"],
  run,
};

async function run(world: World): Promise<void> {
  const first = await startEmbeddedPostgres(temporaryFolder());
  const way = await databaseProxy({ address: first.connection });
  const server = await world.server({ database: databaseAt(way.url) });
  const place = await world.place(server);
  const host = await place.host();
  const id = await host.agentId();
  await place.publish("first");
  await place.publish("second");
  await place.settled();
  const backup = join(temporaryFolder(), "backup");
  const bowline = async (...words: string[]): Promise<void> => {
    const command = [process.execPath, program, ...words, "--data-dir", server.dataDir];
    const { code, output } = await runProcess({ command, env: { BOWLINE_DATABASE_URL: way.url } });
    assert.equal(code, 0, output);
  };
  await bowline("backup", backup);
  const before = await witnessed(place.db, [place.clusterId]);

  const lost = await world.fault("the database is the backup", async () => {
    const done = [await place.publish("first"), await place.publish("third")]; // of the third it has never heard
    await place.settled();
    done.push(await place.publish("first"));
    await place.settled();
    await host.kill();
    const unseen = await place.publish("second"); // no agent is there to receive it
    await server.stop();
    const second = await startEmbeddedPostgres(temporaryFolder());
    way.redirect({ path: join(second.connection.host, `.s.PGSQL.${second.connection.port}`) });
    way.cut();
    way.mend();
    await bowline("restore", backup);
    await installWitness(place.db, before);
    return [...done, unseen];
  });
  const why = "it was accepted after the backup that the operator restored";
  for (const { commands } of lost)
    for (const { command, deployment } of commands) {
      world.history.append({ kind: "forgiven", invariant: "A", subject: command, why });
      world.history.append({ kind: "forgiven", invariant: "B", subject: deployment, why });
      world.history.append({ kind: "forgiven", invariant: "H", subject: deployment, why }); // its content only the agent knows
    }

  const standing = host.standing();
  const effects = host.ledger().length;
  await server.again();
  host.again();
  const inState = (state: Agent_State) =>
    world.within(`the agent is in state ${state}`, withinMs, async () => {
      return (await place.api().agents.getAgent({ id })).state === state;
    });
  await inState(Agent_State.AWAITING_DECISION);
  const side = world.random.pick([Side.SERVER, Side.AGENT]);
  await place.api().agents.acceptAgent({ id, side });
  await inState(Agent_State.ENROLLED);
  const held = await place.publish("second"); // accepted, and not sent before the operator confirms
  assert.equal((await place.row(held.command)).attempt, 0);
  assert.equal(host.ledger().length, effects);
  assert.deepEqual([...host.standing()], [...standing]);
  await place.api().installation.confirmRestore({});
  await place.settled(withinMs);
  const next = await place.publish("first");
  await place.settled(withinMs);
  for (const { command } of [held, next]) assert.equal((await place.row(command)).state, "SUCCEEDED");
  for (const [deployment] of standing) assert.ok(host.standing().has(deployment), `${deployment} was removed`);
}
