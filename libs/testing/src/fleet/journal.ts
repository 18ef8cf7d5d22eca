/**
 * What a simulated agent would have on its disk, in memory: it outlives
 * sessions, and nothing of it is forgotten before a real agent would.
 */
import { createHash } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import type {
  DeployCommand,
  DeploymentStateSchema,
  DeployResultSchema,
  ResultAck_Disposition,
  SyncSchema,
} from "@bowline/contract/agent";
import { newId } from "@bowline/kernel";
import type { Wait } from "./wheel.ts";

export type Result = MessageInitShape<typeof DeployResultSchema>;
type Page = MessageInitShape<typeof SyncSchema>;
export type State = MessageInitShape<typeof DeploymentStateSchema>;

/** A command under way, or done and not acknowledged. */
export interface Entry {
  command: DeployCommand;
  /** Ends its work. Undefined: it has not begun, or is done. */
  work: Wait | undefined;
  result: Result | undefined;
  /** When the result was last said; Infinity: the server wants it on another session only. */
  saidAt: number;
}

export interface Known {
  generation: number;
  digest: string;
}

/** What runs of a deployment; `state` where it has instances. */
export interface Running extends Known {
  state: State | undefined;
}

export interface MemoryJournal {
  readonly id: string;
  /** By command. */
  readonly open: Map<string, Entry>;
  readonly running: Map<string, Running>;
  readonly highest: Map<string, Known>;
  epoch: number;
  incarnation: number;
  observation: number;
  /** Is told of each command that ended: the session that there is. */
  finished: ((entry: Entry) => void) | undefined;
  /** Of a command that ended here and was acknowledged. */
  outcomeOf(commandId: string, attempt: number): Result | undefined;
  acknowledged(commandId: string, attempt: number, disposition: ResultAck_Disposition): void;
  /** Over everything that runs. */
  stateDigest(): string;
  /** Something else runs now. */
  changed(): void;
  /** At least one; the last one says so. */
  syncPages(withDeployments: boolean): Page[];
}

/** Entries of a Sync page: results have at most about 500 bytes, deployments 120, and a message 64 KiB. */
const maxCommands = 64;
const maxDeployments = 256;
/** Acknowledged outcomes that are kept: an attempt is pushed again within seconds, and an agent has a few at a time. */
const maxOutcomes = 32;

export function createJournal(settles: (disposition: ResultAck_Disposition) => boolean): MemoryJournal {
  const outcomes = new Map<string, Result>();
  let digest: string | undefined;
  const journal: MemoryJournal = {
    id: newId("journal"),
    open: new Map(),
    running: new Map(),
    highest: new Map(),
    epoch: 0,
    incarnation: 0,
    observation: 0,
    finished: undefined,
    outcomeOf: (commandId, attempt) => outcomes.get(`${commandId} ${attempt}`),
    acknowledged(commandId, attempt, disposition) {
      const entry = journal.open.get(commandId);
      if (entry?.result === undefined || entry.command.attempt !== attempt) return;
      if (!settles(disposition)) {
        entry.saidAt = Infinity;
        return;
      }
      journal.open.delete(commandId);
      outcomes.set(`${commandId} ${attempt}`, entry.result);
      const [oldest] = outcomes.keys();
      if (outcomes.size > maxOutcomes && oldest !== undefined) outcomes.delete(oldest);
    },
    stateDigest() {
      digest ??= createHash("sha256")
        .update(
          [...journal.running]
            .map(([id, known]) => `${id} ${known.generation} ${known.digest}\n`)
            .toSorted()
            .join(""),
        )
        .digest("hex");
      return digest;
    },
    changed: () => void (digest = undefined),
    syncPages(withDeployments) {
      const entries = [...journal.open.values()];
      const under = entries.filter(({ result }) => result === undefined);
      const pages: Page[] = [
        ...paged(under, maxCommands, (group) => ({ journal: group.map(journalEntry) })),
        ...paged(
          entries.flatMap(({ result }) => (result === undefined ? [] : [result])),
          maxCommands,
          (results) => ({ results }),
        ),
        ...paged(
          [...journal.highest].filter(([id, known]) => !isSame(journal.running.get(id), known)),
          maxDeployments,
          (group) => ({ highest: group.map(([deploymentId, known]) => ({ deploymentId, ...known })) }),
        ),
        ...paged(withDeployments ? [...journal.running] : [], maxDeployments, (group) => ({
          deployments: group.map(([deploymentId, known]) => ({
            ...{ deploymentId, generation: known.generation, digest: known.digest },
          })),
        })),
      ];
      return pages.length === 0 ? [{ last: true }] : pages.with(-1, { ...pages.at(-1), last: true });
    },
  };
  return journal;
}

function journalEntry({ command, work }: Entry) {
  const { commandId, attempt, deploymentId, generation } = command;
  return { commandId, attempt, deploymentId, generation, phase: work === undefined ? "RECEIVED" : "RUNNING" };
}

function paged<T>(all: readonly T[], most: number, page: (group: T[]) => Page): Page[] {
  const pages: Page[] = [];
  for (let at = 0; at < all.length; at += most) pages.push(page(all.slice(at, at + most)));
  return pages;
}

function isSame(one: Known | undefined, other: Known): boolean {
  return one?.generation === other.generation && one.digest === other.digest;
}
