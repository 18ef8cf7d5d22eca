/**
 * The simulated engine of tests/simulation beside the real statements: the same
 * calls, drawn from seeds, one after another, must be answered alike and leave
 * the same rows. What is concurrent there is not compared here.
 */
import { create } from "@bufbuild/protobuf";
import { expect, test } from "@jest/globals";
import { CommandReceiptSchema, DeployResultSchema } from "@bowline/contract/agent";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { isProblem } from "@bowline/kernel";
import { testDatabase } from "@bowline/testing";
import { sql } from "kysely";
import { createRandom } from "../../../tests/simulation/random.ts";
import { byNumber, type Call, draw, type Side, simulatedSide } from "../../../tests/simulation/sequential.ts";
import { type Db, transact } from "./platform/transactions.ts";
import { startEngine } from "./commands/engine.fixture.ts";
import {
  agentGone,
  claim,
  converge,
  countMissingReceipts,
  reconcile,
  recordReports,
  retireAgent,
  sessionEnded,
  settleForks,
  sweep,
} from "./commands/index.ts";
import { cancel, retry } from "./commands/requests.ts";

const histories = 20;
/** Side by side, each in a database of its own: a sweep looks at all that is open. */
const lanes = 4;
const callsEach = 22;

async function realSide(db: Db): Promise<Side> {
  const engine = await startEngine(db);
  const { ports, agentId } = engine;
  ports.owners.clear();
  const commands: string[] = [];
  const deployments: string[] = [];
  let epoch = 1;
  const numberOf = (id: string): number => commands.indexOf(id) + 1;
  /** Commands that the engine made by itself get the next numbers, by age. */
  const learn = async (): Promise<void> => {
    const rows = await db
      .selectFrom("command_states")
      .select(["command_id", "deployment_id"])
      .where("agent_id", "=", agentId)
      .orderBy("sequence")
      .execute();
    for (const row of rows) {
      if (!commands.includes(row.command_id)) commands.push(row.command_id);
      if (!deployments.includes(row.deployment_id)) deployments.push(row.deployment_id);
    }
  };
  const later = (ms: number): Promise<unknown> =>
    Promise.all([
      sql`UPDATE command_states SET assigned_at = assigned_at - ${ms} * interval '1 ms', received_at = received_at - ${ms} * interval '1 ms',
        cancelling_at = cancelling_at - ${ms} * interval '1 ms', unbound_at = unbound_at - ${ms} * interval '1 ms',
        due_at = due_at - ${ms} * interval '1 ms', updated_at = updated_at - ${ms} * interval '1 ms' WHERE agent_id = ${agentId}`.execute(
        db,
      ),
      sql`UPDATE commands SET deadline_at = deadline_at - ${ms} * interval '1 ms' WHERE agent_id = ${agentId}`.execute(
        db,
      ),
      sql`UPDATE sessions SET ended_at = ended_at - ${ms} * interval '1 ms' WHERE agent_id = ${agentId}`.execute(db),
    ]);
  return {
    async call(asked) {
      try {
        switch (asked.kind) {
          case "wish": {
            const desired = Deployment_Desired[asked.desired];
            const id = asked.deployment === undefined ? undefined : deployments[asked.deployment - 1];
            const wish = {
              ...engine.wish(id),
              limits: asked.limits,
              build: () => ({ desired, removeVolumes: asked.removeVolumes }),
            };
            const [made] = await transact(db, (work) => converge(ports, work, [wish]));
            await learn();
            return [numberOf(made?.commandId ?? ""), made?.generation];
          }
          case "claim": {
            const { window, onlyReducing } = asked;
            const claimed = await transact(db, (work) =>
              claim(ports, work, [{ agentId, epoch, window, onlyReducing }]),
            );
            return claimed.map((one) => [numberOf(one.commandId), one.attempt]).toSorted(byNumber);
          }
          case "receipt": {
            const { disposition, attempt } = asked;
            const message = create(CommandReceiptSchema, {
              commandId: commands[asked.command - 1] ?? "",
              attempt,
              disposition,
            });
            await recordReports(ports, [{ agentId, epoch: asked.epoch, message }]);
            return;
          }
          case "result": {
            const { outcome, attempt, worthRetry } = asked;
            const commandId = commands[asked.command - 1] ?? "";
            const message = create(DeployResultSchema, { commandId, attempt, outcome, worthRetry, reason: "X" });
            const answers = await recordReports(ports, [{ agentId, epoch: asked.epoch, message }]);
            return answers.map((one) => one?.disposition);
          }
          case "cancel":
            return await transact(db, (work) => cancel(ports, work, commands[asked.command - 1] ?? ""));
          case "retry":
            await transact(db, (work) => retry(ports, work, commands[asked.command - 1] ?? "", "me"));
            return await learn();
          case "end-session":
            return await transact(db, async ({ tx, ...work }) => {
              await sql`UPDATE sessions SET state = 'ENDED', ended_at = now() WHERE agent_id = ${agentId}`.execute(tx);
              await sessionEnded(ports, { tx, ...work }, agentId, epoch);
            });
          case "sync":
            return await transact(db, async ({ tx, ...work }) => {
              await sessionEnded(ports, { tx, ...work }, agentId, epoch);
              epoch += 1;
              await sql`UPDATE sessions SET state = 'SERVING', epoch = ${epoch}, ended_at = NULL WHERE agent_id = ${agentId}`.execute(
                tx,
              );
              const journal = asked.listed.map(({ command, attempt }) => ({
                ...{ commandId: commands[command - 1] ?? "", attempt, deploymentId: "", generation: 0, phase: "" },
                $typeName: "bowline.agent.v1.JournalEntry" as const,
              }));
              const decided = await reconcile(
                ports,
                { tx, ...work },
                { agentId, epoch, journalWhole: asked.whole, journal },
              );
              return decided.map((one) => [numberOf(one.commandId), one.attempt, one.action]).toSorted(byNumber);
            });
          case "time":
            await later(asked.ms);
            for (let round = 0; round < 5 && (await sweep(ports, { blames: asked })) > 0; round += 1);
            return undefined;
          case "no-receipts":
            await later(100_000);
            return await countMissingReceipts(ports, agentId, epoch);
          case "fork": {
            const deploymentId = deployments[asked.deployment - 1] ?? "";
            const { generation } = await db
              .selectFrom("deployments")
              .select("generation")
              .where("id", "=", deploymentId)
              .executeTakeFirstOrThrow();
            const fork = { deploymentId, agentGeneration: generation + asked.ahead, agentDigest: "d" };
            await transact(db, (work) => settleForks(ports, work, [fork], { side: asked.side, createdBy: "me" }));
            return await learn();
          }
          case "gone":
            return await transact(db, async (work) => {
              if (asked.retired) await retireAgent(ports, work, agentId);
              else await agentGone(ports, work, agentId, { retired: false });
            });
          default:
            return asked satisfies never;
        }
      } catch (error) {
        if (isProblem(error)) return error.reason;
        throw error;
      }
    },
    async commands() {
      const rows = await db
        .selectFrom("command_states")
        .selectAll()
        .where("agent_id", "=", agentId)
        .orderBy("sequence")
        .execute();
      return rows.map((row) => ({
        ...{ command: numberOf(row.command_id), deployment: deployments.indexOf(row.deployment_id) + 1 },
        ...{ state: row.state, attempt: row.attempt, failures: row.failures, boundEpoch: row.bound_epoch },
        ...{ everReceived: row.ever_received, without: row.sessions_without_receipt, cancel: row.cancel_reason },
        ...{
          outcome: row.outcome_attempt,
          late: row.late_outcome !== "",
          supersededBy: numberOf(row.superseded_by ?? ""),
        },
      }));
    },
    async deployments() {
      const rows = await db.selectFrom("deployments").selectAll().where("agent_id", "=", agentId).execute();
      return rows
        .map((row) => ({
          ...{ deployment: deployments.indexOf(row.id) + 1, desired: row.desired, generation: row.generation },
          ...{ observed: row.observed_generation, absent: row.is_absent, held: row.held_reason !== "" },
        }))
        .toSorted((a, b) => a.deployment - b.deployment);
    },
  };
}

async function compare(db: Db, seed: string): Promise<number> {
  const random = createRandom(seed);
  const real = await realSide(db);
  const simulated = simulatedSide(seed);
  const calls: Call[] = [];
  let epoch = 1;
  for (let number = 0; number < callsEach; number += 1) {
    const call = draw(random, await simulated.commands(), (await simulated.deployments()).length, epoch);
    if (call.kind === "sync") epoch += 1;
    calls.push(call);
    const answers = [await real.call(call), await simulated.call(call)];
    const rows = [await real.commands(), await simulated.commands()];
    const deployments = [await real.deployments(), await simulated.deployments()];
    const about = { seed, calls };
    expect({ ...about, answer: answers[1], rows: rows[1], deployments: deployments[1] }).toEqual({
      ...{ ...about, answer: answers[0], rows: rows[0], deployments: deployments[0] },
    });
  }
  await real.call({ kind: "gone", retired: true }); // nothing is left for the next one's sweeps
  return (await simulated.commands()).length;
}

test("the same calls are answered alike by the simulated engine and by the real statements, and leave the same rows", async () => {
  const seeds = Array.from({ length: histories }, (_, number) => `beside/${number}`);
  let commands = 0;
  await Promise.all(
    Array.from({ length: lanes }, async () => {
      const { db } = await testDatabase();
      for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift()) {
        const made = await compare(db, seed);
        commands += made;
      }
    }),
  );
  expect(commands).toBeGreaterThan(histories * 3);
}, 240_000); // some thousand transactions: seconds, or minutes on a busy machine
