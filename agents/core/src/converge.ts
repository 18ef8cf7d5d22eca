/**
 * Runs what was received, from the journal to the result in the journal.
 *
 *   intake.ts    fetched, journalled, receipt sent    gateways.ts  data planes and routes
 *   serve.ts     sends what this tells                journal.ts   what survives a crash
 *
 * V1: one command of a deployment runs at a time, in the order of receipt (E7).
 * V2: a start is in the journal before its effect; the third start of one
 *     attempt is reported AGENT_CRASHED instead of run.
 * V3: the result is in the journal before anybody hears of it.
 * V4: when the agent stops, what runs is left without a result, and the next
 *     start takes it up again.
 * V5: a journal that cannot be written (a full disk) keeps its commands waiting
 *     until it can: the server believes that they run here, and nobody else
 *     would take them up.
 */
import { create, toBinary } from "@bufbuild/protobuf";
import {
  DeployResult_Outcome,
  DeployResultSchema,
  type CommandProgress,
  type DeployResult,
} from "@bowline/contract/agent";
import { Deployment_Desired, type Deployment } from "@bowline/contract/deployments";
import { crashPoint, type Clock } from "@bowline/kernel";
import { noTraces, type Traces } from "@bowline/traces";
import { whyAborted, type AbortReason, type Gateways } from "./gateways.ts";
import type { Journal, JournalledCommand } from "./journal.ts";
import type { Log } from "./log.ts";
import { deploymentState } from "./observe.ts";
import type { ConvergeEnd, ConvergeProgress, Runtime } from "./runtime.ts";
import { readSpec } from "./specs.ts";

/** Who hears of progress and results; there is no session at times, and then nobody does. */
export interface Listener {
  progressed(progress: Pick<CommandProgress, "commandId" | "attempt"> & ConvergeProgress): void;
  finished(result: DeployResult): void;
}

export interface Converger {
  /** Takes a command that is in the journal. Once per command and attempt. */
  run(command: JournalledCommand): void;
  /** Ends a command; its result says how. False: it is not here. */
  cancel(commandId: string, attempt: number): boolean;
  /** RECEIVED, RUNNING or CANCELLING; undefined: not here. */
  phaseOf(commandId: string, attempt: number): string | undefined;
  /** Runs `work` in the deployment's turn, as a command would. */
  inTurn(deploymentId: string, work: () => Promise<void>): void;
  /** Whether something waits for this deployment's turn to end. */
  isAwaited(deploymentId: string): boolean;
  listener: Listener | undefined;
  /** V4. Resolves when nothing runs any more. */
  stop(): Promise<void>;
}

/** From here on an attempt is not started again: it has taken the agent with it, or was stopped with it, twice. */
const startsBeforeGivingUp = 3;
/** A full disk gets space within minutes or days. */
const journalAgainMs = 2_000;
/** Of the tries of a command each so-manieth is a line of the log: the first, and one a minute. */
const triesPerLine = 30;
/** A result with more than this says so little more that it is not worth a page of Sync. */
const maxMessageCharacters = 4_000;
/** Instances beyond this go up as StateReports only: the result must fit into one message. */
const maxResultBytes = 32 * 1024;

type Running = { ending: AbortController; started: boolean };
export function createConverger(ports: {
  runtime: Runtime;
  gateways: Gateways;
  journal: Journal;
  log: Log;
  clock: Clock;
  traces?: Traces;
}): Converger {
  const { runtime, gateways, journal, log, clock, traces = noTraces } = ports;
  const turns = new Map<string, Promise<void>>();
  /** How many wait for the turn of a deployment. */
  const waiting = new Map<string, number>();
  const running = new Map<string, Running>();
  const stopping = new AbortController();

  const converger: Converger = {
    listener: undefined,
    run(command) {
      const key = keyOf(command.commandId, command.attempt);
      if (stopping.signal.aborted || running.has(key)) return;
      const entry = { ending: new AbortController(), started: false };
      running.set(key, entry);
      converger.inTurn(command.deploymentId, async () => {
        try {
          await attempt(command, entry);
        } catch (error) {
          // The command stays in the journal, and the next start takes it up.
          log.error({ command: command.commandId, error: textOf(error) }, "a command could not be carried to its end");
        } finally {
          running.delete(key);
        }
      });
    },
    cancel(commandId, number) {
      const entry = running.get(keyOf(commandId, number));
      entry?.ending.abort("cancelled" satisfies AbortReason);
      return entry !== undefined;
    },
    phaseOf(commandId, number) {
      const entry = running.get(keyOf(commandId, number));
      if (entry === undefined) return undefined;
      if (entry.ending.signal.aborted) return "CANCELLING";
      return entry.started ? "RUNNING" : "RECEIVED";
    },
    inTurn(deploymentId, work) {
      const before = turns.get(deploymentId) ?? Promise.resolve();
      waiting.set(deploymentId, (waiting.get(deploymentId) ?? 0) + 1);
      const turn = before.then(() => {
        const left = (waiting.get(deploymentId) ?? 1) - 1;
        if (left > 0) waiting.set(deploymentId, left);
        else waiting.delete(deploymentId);
        return work(); // V1
      });
      turns.set(deploymentId, turn);
      void turn.finally(() => {
        if (turns.get(deploymentId) === turn) turns.delete(deploymentId);
      });
    },
    isAwaited: (deploymentId) => waiting.has(deploymentId),
    async stop() {
      stopping.abort();
      for (const { ending } of running.values()) ending.abort("stopping" satisfies AbortReason);
      await Promise.all(turns.values());
    },
  };
  return converger;

  async function attempt(command: JournalledCommand, entry: Running): Promise<void> {
    const startedAt = clock.monotonicMs();
    const { signal } = entry.ending;
    if (whyAborted(signal) === "stopping") return; // V4
    entry.started = true;
    const { commandId, attempt: number, deploymentId, generation, traceParent = "" } = command;
    const span = traces.part("agent.apply", {
      parent: traceParent,
      attributes: {
        "bowline.command": commandId,
        "bowline.attempt": number,
        "bowline.deployment": deploymentId,
        "bowline.generation": generation,
      },
    });
    const end = signal.aborted
      ? ({ kind: "cancelled" } as const)
      : await carryOut(command, entry.ending, span.traceparent);
    if (end.kind !== "succeeded" && whyAborted(signal) === "stopping") return span.end("STOPPING"); // V4
    const result = await resultOf(command, end, clock.monotonicMs() - startedAt);
    crashPoint("converge.before-result");
    await kept(command, () => journal.finish(result, outcomeOf(command, end))); // V3
    crashPoint("converge.after-result");
    span.end(end.kind === "failed" ? end.reason : end.kind === "cancelled" ? "CANCELLED" : undefined);
    log.info(
      {
        command: command.commandId,
        attempt: command.attempt,
        deployment: command.deploymentId,
        generation: command.generation,
        outcome: end.kind,
        ...(end.kind === "failed" ? { reason: end.reason, detail: end.message } : {}),
        ...(end.kind === "succeeded" && end.remark !== undefined ? { remark: end.remark } : {}),
      },
      "command ended",
    );
    converger.listener?.finished(result);
  }

  /** V5. Rejects only where the agent stops meanwhile. */
  async function kept<T>({ commandId }: JournalledCommand, write: () => Promise<T>): Promise<T> {
    for (let tries = 0; ; tries += 1) {
      try {
        return await write();
      } catch (error) {
        if (stopping.signal.aborted) throw error;
        if (tries % triesPerLine === 0)
          log.error(
            { command: commandId, error: textOf(error), againMs: journalAgainMs },
            "the journal cannot be written; its commands wait for it",
          );
        await clock.sleep(journalAgainMs, stopping.signal);
      }
    }
  }

  async function carryOut(command: JournalledCommand, ending: AbortController, trace: string): Promise<ConvergeEnd> {
    const highest = journal.highest(command.deploymentId);
    if (highest !== undefined && command.generation < highest.generation) {
      return { kind: "cancelled" }; // J3: a newer generation was received meanwhile; going back would undo it.
    }
    const starts = await kept(command, () => journal.start(command.commandId)); // V2
    if (starts >= startsBeforeGivingUp) {
      const message = `the agent ended while this attempt ran, ${starts - 1} times; what ran before is left as it is`;
      return { kind: "failed", reason: "AGENT_CRASHED", message, worthRetry: true };
    }
    crashPoint("converge.started");
    const read = readSpec(command.spec, command);
    if (!read.ok) return { kind: "failed", reason: read.reason, message: read.message, worthRetry: false };

    const timer = new AbortController();
    void clock.sleep(command.runTimeoutMs, timer.signal).then(() => {
      if (!timer.signal.aborted) ending.abort("timeout" satisfies AbortReason);
    });
    try {
      const span = traces.part(stepNames[gateways.kindOf(read.spec)], { parent: trace });
      const end = await converge(read.spec, command, ending.signal);
      span.end(end.kind === "failed" ? end.reason : end.kind === "cancelled" ? "CANCELLED" : undefined);
      crashPoint("converge.effect");
      if (end.kind === "cancelled" && whyAborted(ending.signal) === "timeout") {
        const message = `not done after ${Math.round(command.runTimeoutMs / 1000)} s`;
        return { kind: "failed", reason: "RUN_TIMEOUT", message, worthRetry: true };
      }
      return end;
    } catch (error) {
      log.error({ command: command.commandId, error: textOf(error) }, "converging failed unexpectedly");
      return { kind: "failed", reason: "INTERNAL", message: textOf(error), worthRetry: true };
    } finally {
      timer.abort();
    }
  }

  function converge(spec: Deployment, command: JournalledCommand, signal: AbortSignal): Promise<ConvergeEnd> {
    const { commandId, attempt: number } = command;
    const report = (progress: ConvergeProgress): void =>
      converger.listener?.progressed({ commandId, attempt: number, ...progress });
    const kind = gateways.kindOf(spec);
    switch (kind) {
      case "data-plane":
        return gateways.convergeDataPlane(spec, report, signal);
      case "routes":
        return gateways.convergeRoutes(spec, report, signal);
      case "plain":
        return runtime.converge(spec, report, signal);
      default:
        return kind satisfies never;
    }
  }

  /** What the journal keeps beside the result. */
  function outcomeOf(command: JournalledCommand, end: ConvergeEnd): Parameters<Journal["finish"]>[1] {
    if (end.kind !== "succeeded") return {};
    const { deploymentId, generation, digest, spec } = command;
    const read = readSpec(spec, command);
    if (read.ok && read.spec.desired === Deployment_Desired.ABSENT) return { removed: deploymentId };
    const sinceMs = journal.goodOf(deploymentId)?.sinceMs ?? clock.now();
    return { good: { deploymentId, generation, digest, spec, sinceMs } };
  }

  async function resultOf(command: JournalledCommand, end: ConvergeEnd, durationMs: number): Promise<DeployResult> {
    const result = create(DeployResultSchema, {
      commandId: command.commandId,
      attempt: command.attempt,
      outcome: outcomes[end.kind],
      durationMs: Math.round(durationMs),
      productPublishId: command.productPublishId,
      ...(end.kind === "failed"
        ? { reason: end.reason, message: end.message.slice(0, maxMessageCharacters), worthRetry: end.worthRetry }
        : {}),
      ...(end.kind === "succeeded" && end.remark !== undefined
        ? { reason: end.remark.reason, message: end.remark.message.slice(0, maxMessageCharacters) }
        : {}),
    });
    try {
      const observed = (await runtime.list()).find(({ deploymentId }) => deploymentId === command.deploymentId);
      if (observed !== undefined) result.state = deploymentState(observed);
      if (toBinary(DeployResultSchema, result).byteLength > maxResultBytes) delete result.state;
    } catch (error) {
      log.warn(
        { deployment: command.deploymentId, error: textOf(error) },
        "what runs could not be listed for a result",
      );
    }
    return result;
  }
}

const outcomes = {
  succeeded: DeployResult_Outcome.SUCCEEDED,
  failed: DeployResult_Outcome.FAILED,
  cancelled: DeployResult_Outcome.CANCELLED,
} as const satisfies Record<ConvergeEnd["kind"], DeployResult_Outcome>;

/** What the runtime or the data plane does, and answers. */
const stepNames = {
  "data-plane": "dataplane.start",
  routes: "dataplane.apply",
  plain: "runtime.converge",
} as const satisfies Record<ReturnType<Gateways["kindOf"]>, string>;

function keyOf(commandId: string, attempt: number): string {
  return `${commandId} ${attempt}`;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
