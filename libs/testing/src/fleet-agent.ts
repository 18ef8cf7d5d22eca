/**
 * A scripted agent that keeps itself going, for tests with many: it takes every
 * command, reports that it succeeded, keeps results until they are acknowledged,
 * leaves when it is asked to, and dials again. Its journal is in memory.
 */
import { ConnectError } from "@connectrpc/connect";
import { setTimeout as sleep } from "node:timers/promises";
import {
  CommandReceipt_Disposition as Receipt,
  ResultAck_Disposition as Ack,
  type DeployCommand,
  type ServerMessage,
} from "@bowline/contract/agent";
import { refusalOf } from "@bowline/session";
import { atEnd } from "./endings.ts";
import type { ScriptedAgent } from "./scripted-agent.ts";
import { scriptedResult, type ScriptedSession } from "./scripted-session.ts";

export interface FleetAgent {
  agentId: string;
  /** Sessions that the server greeted. */
  sessions(): number;
  /** The open session, if there is one. */
  session(): ScriptedSession | undefined;
  /** How often each attempt of each command was carried out, as `command attempt`. */
  effects: ReadonlyMap<string, number>;
  /** Reasons why dials were refused or sessions ended, other than in order. */
  troubles: readonly string[];
  /** Ends it; called at the end by itself. */
  stop(): Promise<void>;
}

export interface FleetOptions {
  /** Where it dials. Default: where it enrolled. */
  url?: string;
  /** How long a command takes. Default 0. */
  workMs?: number;
  /** Default: what the server says in its greeting. */
  heartbeatMs?: number;
}

/** Between sessions: as a real agent's floor, with some jitter. */
const redialMs = 250;
/** After a dial that failed. */
const againMs = 500;

type Open = { command: DeployCommand; done: boolean };

/** Takes over an agent that has enrolled and not connected. */
export function startFleetAgent(agent: ScriptedAgent, options: FleetOptions = {}): FleetAgent {
  const stopping = new AbortController();
  /** By command: the attempt that it has, and whether its work is done. */
  const journal = new Map<string, Open>();
  const effects = new Map<string, number>();
  const troubles: string[] = [];
  let session: ScriptedSession | undefined;
  let sessions = 0;

  const pause = (ms: number): Promise<void> => sleep(ms, undefined, { signal: stopping.signal }).catch(() => undefined); // stopped

  async function carryOut(open: Open): Promise<void> {
    const { commandId, attempt } = open.command;
    const which = `${commandId} ${attempt}`;
    effects.set(which, (effects.get(which) ?? 0) + 1);
    await pause(options.workMs ?? 0);
    open.done = true;
    tell(open);
  }

  function tell({ command }: Open): void {
    session?.send({ case: "deployResult", value: scriptedResult(command, { succeeded: true }) });
  }

  async function take(on: ScriptedSession, command: DeployCommand): Promise<void> {
    const known = journal.get(command.commandId);
    if (known !== undefined && known.command.attempt >= command.attempt) {
      if (known.done) tell(known);
      else on.receipt(command, Receipt.DUPLICATE);
      return;
    }
    const [fetched] = await on.fetch([command]);
    if (fetched === undefined || fetched.reason !== "") return; // it was taken back; it is pushed again where not
    if (journal.get(command.commandId)?.command.attempt === command.attempt) return;
    const open: Open = { command, done: false };
    journal.set(command.commandId, open);
    on.receipt(command, Receipt.ACCEPTED);
    void carryOut(open);
  }

  function acknowledged(commandId: string, attempt: number, disposition: Ack): void {
    const settled =
      disposition === Ack.RECORDED || disposition === Ack.ALREADY_RECORDED || disposition === Ack.OBSOLETE;
    if (settled && journal.get(commandId)?.command.attempt === attempt) journal.delete(commandId);
  }

  function hear(on: ScriptedSession, { message }: ServerMessage): void {
    switch (message.case) {
      case "deployCommand":
        // A fetch that fails (its session ended, its replica went) leaves the command to its next push.
        take(on, message.value).catch((error: unknown) => troubles.push(`fetch: ${reasonOf(error)}`));
        return;
      case "resultAck":
        return acknowledged(message.value.commandId, message.value.attempt, message.value.disposition);
      case "syncReply":
        for (const ack of message.value.results) acknowledged(ack.commandId, ack.attempt, ack.disposition);
        return;
      case "drain":
        void pause(Math.random() * message.value.spreadMs).then(() => on.goodbye("asked to leave"));
        return;
      case "superseded":
        troubles.push("SUPERSEDED");
        return;
      default:
    }
  }

  async function serve(): Promise<void> {
    const early: ServerMessage[] = [];
    let on: ScriptedSession | undefined;
    const opened = await agent.connect({
      ...(options.url === undefined ? {} : { url: options.url }),
      sync: false,
      heard: (message) => (on === undefined ? void early.push(message) : hear(on, message)),
    });
    on = session = opened;
    sessions += 1;
    const all = [...journal.values()];
    opened.send({
      case: "sync",
      value: {
        last: true,
        journal: all.map(({ command: { commandId, attempt, deploymentId, generation } }) => ({
          ...{ commandId, attempt, deploymentId, generation },
          phase: "RUNNING",
        })),
        results: all.filter(({ done }) => done).map(({ command }) => scriptedResult(command, { succeeded: true })),
      },
    });
    for (const message of early) hear(opened, message);
    void beat(opened);
    if (stopping.signal.aborted) opened.drop(); // it opened while the end came
    const { reason } = await opened.ended;
    session = undefined;
    if (reason !== "CLOSED" && !stopping.signal.aborted) troubles.push(reason);
  }

  async function beat(on: ScriptedSession): Promise<void> {
    const everyMs = options.heartbeatMs ?? on.greeting.heartbeatIntervalMs;
    for (let number = 1; ; number += 1) {
      await pause(everyMs);
      if (session !== on || stopping.signal.aborted) return;
      on.send({ case: "heartbeat", value: { number, capacity: { placesFree: 16 } } });
      for (const open of journal.values()) if (open.done) tell(open);
    }
  }

  const running = (async () => {
    while (!stopping.signal.aborted) {
      try {
        await serve();
        await pause(redialMs * (1 + Math.random()));
      } catch (error) {
        troubles.push(reasonOf(error));
        await pause(againMs * (1 + Math.random()));
      }
    }
  })();
  const stop = async (): Promise<void> => {
    stopping.abort();
    session?.drop();
    await running;
  };
  atEnd(stop);
  return { agentId: agent.agentId, sessions: () => sessions, session: () => session, effects, troubles, stop };
}

function reasonOf(error: unknown): string {
  return error instanceof ConnectError ? refusalOf(error).reason : String(error);
}
