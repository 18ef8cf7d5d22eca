/** Calls of the engine one after another, without time or chance between them: for the comparison with the real statements. */
import { create } from "@bufbuild/protobuf";
import {
  CommandReceipt_Disposition as Disposition,
  CommandReceiptSchema,
  DeployResult_Outcome as Outcome,
  DeployResultSchema,
} from "@bowline/contract/agent";
import type { CommandState } from "@bowline/db";
import { isInFlight } from "../../services/control-plane/src/commands/index.ts";
import { claim } from "./claims.ts";
import { type Engine, productRules } from "./engine.ts";
import { createRandom, type Random } from "./random.ts";
import { agentGone, reconcile, recordReceipts, recordResults, retireAgent, sessionEnded } from "./reports.ts";
import { Store, type Tx } from "./store.ts";
import { countMissingReceipts, sweep } from "./sweeps.ts";
import type { Desired, Limits } from "./tables.ts";
import { cancel, converge, Refused, retry, settleForks } from "./wishes.ts";
import { Process, World } from "./world.ts";

/** Times of calls are multiples of 100 s and limits are not, so that the seconds that a slow machine takes change nothing. */
const limits = (random: Random): Limits => ({
  maxRetries: random.below(3),
  runTimeoutMs: random.pick([1_050_000, 3_050_000]),
  graceMs: 300_000,
  cancelLimitMs: random.pick([550_000, 2_050_000]),
  offlineLifeMs: random.pick([1_250_000, 90_050_000]),
  deadlineMs: random.chance(0.2) ? 4_050_000 : undefined,
});

export interface Listed {
  /** Number of the command. */
  command: number;
  attempt: number;
}

/** What both are asked to do. Commands and deployments by number, in the order of their making. */
export type Call =
  | { kind: "wish"; deployment: number | undefined; desired: Desired; removeVolumes: boolean; limits: Limits }
  | { kind: "claim"; window: number; onlyReducing: boolean }
  | ({ kind: "receipt"; disposition: Disposition; epoch: number } & Listed)
  | ({ kind: "result"; outcome: Outcome; worthRetry: boolean; epoch: number } & Listed)
  | { kind: "cancel" | "retry"; command: number }
  | { kind: "end-session" }
  | { kind: "sync"; whole: boolean; listed: readonly Listed[] }
  | { kind: "time"; ms: number; silence: boolean; absence: boolean }
  | { kind: "no-receipts" }
  | { kind: "fork"; deployment: number; side: "AGENT" | "SERVER"; ahead: number }
  | { kind: "gone"; retired: boolean };

/** A row of either, as far as both have it. */
export interface Row {
  command: number;
  state: CommandState;
  attempt: number;
}

export interface Side {
  /** What it answered: names and numbers only. */
  call(call: Call): Promise<unknown>;
  commands(): Promise<Row[]>;
  deployments(): Promise<object[]>;
}

export const byNumber = (a: readonly (number | undefined)[], b: readonly (number | undefined)[]): number =>
  (a[0] ?? 0) - (b[0] ?? 0) || (a[1] ?? 0) - (b[1] ?? 0);

export function simulatedSide(seed: string): Side {
  const world = new World(createRandom(seed), false);
  const store = new Store(world, world.random.fork("store"));
  const process = new Process(world, "r");
  const agentId = "agent";
  const numbers = { command: 0, deployment: 0 };
  const next = (kind: keyof typeof numbers): string => `${kind}${String((numbers[kind] += 1)).padStart(4, "0")}`;
  const ids = { command: () => next("command"), deployment: () => next("deployment") };
  const id = (kind: string, number: number): string => `${kind}${String(number).padStart(4, "0")}`;
  const numberOf = (name: string): number => Number(name.replace(/\D/g, ""));
  const quiet = () => undefined;
  const engine: Engine = {
    ...{ store, process, rules: productRules, random: () => 0, moved: quiet },
    signals: { wake: quiet, cancel: quiet, pushAgain: quiet, close: quiet },
  };
  let epoch = 1;
  store.tables.sessions.set(agentId, {
    ...{ id: agentId, sessionId: "s", epoch, assertionCounter: 0, replicaId: "r", processId: "" },
    ...{ state: "SERVING", endReason: "", openedAt: 0, endedAt: null },
  });
  store.tables.agents.set(agentId, {
    id: agentId,
    state: "ENROLLED",
    runtimeIdentity: "",
    journalId: "",
    journalCounter: 0,
  });
  /** Lets virtual time pass until it is through. */
  async function through<T>(work: Promise<T>): Promise<T> {
    let done = false;
    const ended = work.finally(() => (done = true));
    ended.catch(quiet); // its caller hears of it
    while (!done) {
      await new Promise((resolve) => setImmediate(resolve)); // what needs no time may set off what does
      await world.run(() => done);
    }
    return ended;
  }
  const within = <T>(body: (tx: Tx) => Promise<T>): Promise<T> => through(store.transact(process, body));
  const later = (ms: number): Promise<void> => through(process.wait(ms));
  const session = (tx: Tx, state: "SERVING" | "ENDED"): void =>
    void tx.patch("sessions", agentId, { state, epoch, endedAt: state === "ENDED" ? tx.now : null });
  return {
    async call(asked) {
      try {
        switch (asked.kind) {
          case "wish": {
            const { desired, removeVolumes } = asked;
            const deploymentId = asked.deployment === undefined ? undefined : id("deployment", asked.deployment);
            const wish = { deploymentId, agentId, desired, removeVolumes, content: "x", limits: asked.limits };
            const made = await within((tx) => converge(engine, tx, ids, wish));
            return [numberOf(made.commandId), made.generation];
          }
          case "claim": {
            const { window, onlyReducing } = asked;
            const claimed = await within((tx) => claim(engine, tx, [{ agentId, epoch, window, onlyReducing }]));
            return claimed.map((row) => [numberOf(row.id), row.attempt]).toSorted(byNumber);
          }
          case "receipt": {
            const { disposition, attempt } = asked;
            const message = create(CommandReceiptSchema, {
              commandId: id("command", asked.command),
              attempt,
              disposition,
            });
            return await within((tx) => recordReceipts(engine, tx, [{ agentId, epoch: asked.epoch, message }]));
          }
          case "result": {
            const { outcome, attempt, worthRetry } = asked;
            const commandId = id("command", asked.command);
            const message = create(DeployResultSchema, { commandId, attempt, outcome, worthRetry, reason: "X" });
            const answers = await within((tx) => recordResults(engine, tx, [{ agentId, epoch: asked.epoch, message }]));
            return answers.map((one) => one.disposition);
          }
          case "cancel":
            return await within((tx) => cancel(engine, tx, id("command", asked.command)));
          case "retry":
            await within((tx) => retry(engine, tx, ids, id("command", asked.command)));
            return undefined;
          case "end-session":
            return await within(async (tx) => {
              session(tx, "ENDED");
              await sessionEnded(engine, tx, agentId, epoch);
            });
          case "sync":
            return await within(async (tx) => {
              await sessionEnded(engine, tx, agentId, epoch);
              epoch += 1;
              session(tx, "SERVING");
              const journal = asked.listed.map(({ command, attempt }) => ({
                commandId: id("command", command),
                attempt,
              }));
              const decided = await reconcile(engine, tx, {
                agentId,
                epoch,
                journalWhole: asked.whole,
                journal,
              });
              return decided.map((one) => [numberOf(one.commandId), one.attempt, one.action]).toSorted(byNumber);
            });
          case "time":
            await later(asked.ms);
            for (let round = 0; round < 5; round += 1) {
              const { changed } = await through(sweep(engine, asked));
              if (changed === 0) break;
            }
            return undefined;
          case "no-receipts":
            await later(100_000);
            return await through(countMissingReceipts(engine, agentId, epoch));
          case "fork": {
            const deploymentId = id("deployment", asked.deployment);
            const generation = store.tables.deployments.get(deploymentId)?.generation ?? 0;
            const fork = { deploymentId, agentGeneration: generation + asked.ahead, agentDigest: "d" };
            await within((tx) => settleForks(engine, tx, ids, [fork], asked.side));
            return undefined;
          }
          case "gone":
            return await within(async (tx) => {
              if (asked.retired) await retireAgent(engine, tx, agentId);
              else await agentGone(engine, tx, agentId, false);
            });
          default:
            return asked satisfies never;
        }
      } catch (error) {
        if (error instanceof Refused) return error.reason;
        throw error;
      }
    },
    commands: () =>
      Promise.resolve(
        [...store.tables.commands.values()]
          .toSorted((a, b) => a.sequence - b.sequence)
          .map((row) => ({
            ...{ command: numberOf(row.id), deployment: numberOf(row.deploymentId) },
            ...{ state: row.state, attempt: row.attempt, failures: row.failures, boundEpoch: row.boundEpoch },
            ...{ everReceived: row.everReceived, without: row.sessionsWithoutReceipt, cancel: row.cancelReason },
            ...{ outcome: row.outcomeAttempt, late: row.lateOutcome !== "", supersededBy: numberOf(row.supersededBy) },
          })),
      ),
    deployments: () =>
      Promise.resolve(
        [...store.tables.deployments.values()]
          .map((row) => ({
            ...{ deployment: numberOf(row.id), desired: row.desired, generation: row.generation },
            ...{ observed: row.observedGeneration, absent: row.isAbsent, held: row.heldReason !== "" },
          }))
          .toSorted((a, b) => a.deployment - b.deployment),
      ),
  };
}

/** What follows, given how things stand. */
export function draw(random: Random, rows: readonly Row[], deployments: number, epoch: number): Call {
  const flying = rows.filter((row) => isInFlight(row.state));
  const one = (): Row => random.pick(flying.length > 0 && random.chance(0.85) ? flying : rows);
  const about = (): Listed & { epoch: number } => {
    const { command, attempt } = one();
    return { command, attempt: attempt - (random.chance(0.1) ? 1 : 0), epoch: epoch - (random.chance(0.1) ? 1 : 0) };
  };
  const kind = random.weighted([
    [6, "wish"],
    [6, "claim"],
    ...(rows.length === 0
      ? []
      : ([
          [5, "receipt"],
          [6, "result"],
          [2, "cancel"],
          [1, "retry"],
          [1, "end-session"],
          [3, "sync"],
          [4, "time"],
          [1, "no-receipts"],
          [0.7, "fork"],
          [0.2, "gone"],
        ] as const)),
  ] as const);
  switch (kind) {
    case "wish": {
      const deployment =
        deployments > 0 && (deployments > 3 || random.chance(0.7)) ? 1 + random.below(deployments) : undefined;
      const desired =
        deployment === undefined
          ? "RUNNING"
          : random.weighted([
              [6, "RUNNING"],
              [2, "STOPPED"],
              [1, "PAUSED"],
              [2, "ABSENT"],
            ] as const);
      return { kind, deployment, desired, removeVolumes: random.chance(0.3), limits: limits(random) };
    }
    case "claim":
      return { kind, window: 1 + random.below(4), onlyReducing: random.chance(0.1) };
    case "receipt": {
      const { ACCEPTED, DUPLICATE, NOT_NOW, REJECTED } = Disposition;
      return {
        kind,
        ...about(),
        disposition: random.pick([ACCEPTED, ACCEPTED, ACCEPTED, DUPLICATE, NOT_NOW, REJECTED]),
      };
    }
    case "result":
      return {
        kind,
        ...about(),
        outcome: random.pick([Outcome.SUCCEEDED, Outcome.FAILED, Outcome.CANCELLED]),
        worthRetry: random.chance(0.7),
      };
    case "cancel":
    case "retry":
      return { kind, command: random.pick(rows).command };
    case "sync": {
      const told = flying
        .filter(() => random.chance(0.6))
        .map(({ command, attempt }) => ({ command, attempt: attempt - (random.chance(0.15) ? 1 : 0) }));
      const others = random.chance(0.3)
        ? [random.pick(rows)].filter((row) => !told.some((entry) => entry.command === row.command))
        : [];
      return {
        kind,
        whole: random.chance(0.6),
        listed: [...told, ...others.map(({ command, attempt }) => ({ command, attempt }))],
      };
    }
    case "time":
      return {
        kind,
        ms: random.pick([100_000, 600_000, 1_300_000, 5_000_000, 100_000_000]),
        silence: random.chance(0.8),
        absence: random.chance(0.8),
      };
    case "fork":
      return {
        kind,
        deployment: 1 + random.below(deployments),
        side: random.pick(["AGENT", "SERVER"] as const),
        ahead: random.below(3),
      };
    case "gone":
      return { kind, retired: random.chance(0.5) };
    default:
      return { kind };
  }
}
