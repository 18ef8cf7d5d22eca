/**
 * What is pushed, on its way into the journal: fetch, check, fsync, receipt, run.
 *
 *   serve.ts  reads the pushes       fetch.ts     gets their specs
 *   journal.ts  keeps them           converge.ts  runs them
 *
 * Q1: nothing starts without a fetch, and no receipt is sent before the journal
 *     is on the disk (J1).
 * Q2: a push that is repeated runs once, and is answered with what became of
 *     the first.
 * Q3: a cancel is always answered: by a result, or by a receipt that says that
 *     there is nothing to end.
 */
import { create } from "@bufbuild/protobuf";
import {
  CommandReceipt_Disposition as Disposition,
  CommandReceiptSchema,
  type CommandReceipt,
  type DeployCommand,
  type DeployResult,
} from "@bowline/contract/agent";
import { crashPoint } from "@bowline/kernel";
import { asTraceparent, type Traces } from "@bowline/traces";
import type { Converger } from "./converge.ts";
import type { Fetched, Fetcher } from "./fetch.ts";
import type { Journal, JournalledCommand } from "./journal.ts";
import { commandPlaces, minDiskFreeBytes } from "./load.ts";
import type { Log } from "./log.ts";

export interface Intake {
  push(command: DeployCommand): Promise<void>;
  cancel(commandId: string, attempt: number): void;
}

/** One per session: what is being fetched for an ended one is nobody's. */
export function createIntake(ports: {
  journal: Journal;
  converger: Converger;
  fetcher: Fetcher;
  diskFree(): Promise<bigint>;
  log: Log;
  traces: Traces;
  receipt(receipt: CommandReceipt): void;
  result(result: DeployResult): void;
}): Intake {
  const { journal, converger, log } = ports;
  /** Being fetched; true: cancelled meanwhile. */
  const fetching = new Map<string, boolean>();

  return {
    async push(command) {
      const { commandId, attempt } = command;
      const done = journal.outcomeOf(commandId, attempt);
      if (done !== undefined) return ports.result(done); // Q2
      if (fetching.has(keyOf(commandId, attempt))) return;
      const known = journal.inFlight().find((one) => one.commandId === commandId);
      if (known?.attempt === attempt) {
        converger.run(known);
        return answer(command, Disposition.DUPLICATE);
      }
      const refused = refusalOf(command);
      if (refused !== undefined) return answer(command, Disposition.REJECTED, ...refused);
      fetching.set(keyOf(commandId, attempt), false);
      try {
        await take(command);
      } catch (error) {
        if (isDiskFull(error))
          return answer(command, Disposition.NOT_NOW, "DISK_FULL", "the journal cannot be written");
        // The server pushes again what gets no receipt, so a failed fetch costs time only.
        const text = error instanceof Error ? error.message : String(error);
        log.warn({ command: commandId, error: text }, "a command could not be taken; it is pushed again");
      } finally {
        fetching.delete(keyOf(commandId, attempt));
      }
    },
    cancel(commandId, attempt) {
      const key = keyOf(commandId, attempt);
      if (fetching.has(key)) return void fetching.set(key, true);
      if (converger.cancel(commandId, attempt)) return;
      const done = journal.outcomeOf(commandId, attempt);
      if (done !== undefined) return ports.result(done);
      answer({ commandId, attempt }, Disposition.REJECTED, "NOT_HERE", "this agent does not have the command"); // Q3
    },
  };

  async function take(command: DeployCommand): Promise<void> {
    const { commandId, attempt, deploymentId, generation, digest, productPublishId, runTimeoutMs, reduces } = command;
    if (!reduces) {
      if (journal.inFlight().length >= commandPlaces) {
        return answer(command, Disposition.NOT_NOW, "NO_PLACE", `${commandPlaces} commands are under way`);
      }
      if ((await ports.diskFree()) < minDiskFreeBytes) {
        return answer(command, Disposition.NOT_NOW, "DISK_FULL", "too little space is left on the agent's disk");
      }
    }
    const traceParent = asTraceparent(command.traceParent);
    const fetched = await fetch(command, traceParent);
    if (fetched.kind === "not-in-flight") return; // The server moved on; what it wants now comes by itself.
    if (fetched.kind === "wrong-digest") {
      return answer(command, Disposition.REJECTED, "SPEC_INVALID", "the spec's bytes are not what the command names");
    }
    if (fetched.kind === "refused") return answer(command, Disposition.REJECTED, fetched.reason, fetched.message);
    const { spec } = fetched;
    const journalled: JournalledCommand = {
      ...{ commandId, attempt, deploymentId, generation, digest, productPublishId, runTimeoutMs, reduces, spec },
      starts: 0,
      ...(traceParent === "" ? {} : { traceParent }),
    };
    crashPoint("intake.before-journal");
    await journal.receive([journalled]); // Q1
    crashPoint("intake.before-receipt");
    answer(command, Disposition.ACCEPTED);
    crashPoint("intake.after-receipt");
    converger.run(journalled);
    if (fetching.get(keyOf(commandId, attempt)) === true) converger.cancel(commandId, attempt);
  }

  async function fetch(command: DeployCommand, parent: string): Promise<Fetched> {
    const { commandId, attempt } = command;
    const attributes = { "bowline.command": commandId, "bowline.attempt": attempt };
    const span = ports.traces.part("agent.fetch", { kind: "client", parent, attributes });
    try {
      const fetched = await ports.fetcher.fetch(command, span.traceparent);
      span.end(fetched.kind === "spec" ? undefined : fetched.kind);
      return fetched;
    } catch (error) {
      span.end("FETCH_FAILED");
      throw error;
    }
  }

  /** E5: never below the highest journalled generation, and one generation has one digest. */
  function refusalOf(command: DeployCommand): [reason: string, message: string] | undefined {
    const highest = journal.highest(command.deploymentId);
    if (highest === undefined || command.generation > highest.generation) return undefined;
    if (command.generation < highest.generation) {
      return ["NEWER_GENERATION", `generation ${highest.generation} is known here, ${command.generation} is older`];
    }
    if (command.digest === highest.digest) return undefined;
    return ["AWAITING_DECISION", `generation ${command.generation} is known here with another digest`];
  }

  function answer(
    { commandId, attempt }: { commandId: string; attempt: number },
    disposition: Disposition,
    reason = "",
    message = "",
  ): void {
    ports.receipt(create(CommandReceiptSchema, { commandId, attempt, disposition, reason, message }));
  }
}

function isDiskFull(error: unknown): boolean {
  const { code } = (error ?? {}) as { code?: unknown };
  return code === "ENOSPC" || code === "EDQUOT";
}

function keyOf(commandId: string, attempt: number): string {
  return `${commandId} ${attempt}`;
}
