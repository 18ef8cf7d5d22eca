/**
 * One session, from greeting to end.
 *
 * N1: nothing about commands is said before the last SyncReply.
 * N2: a receipt is sent after the journal is on the disk (J1).
 * N3: a result is sent again on every new session until it is acknowledged (J2).
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import type { Transport } from "@connectrpc/connect";
import {
  type AgentMessage,
  AgentMessageSchema,
  CommandReceipt_Disposition,
  type ConnectResponse,
  type DeployCommand,
  type DeploymentState,
  type DeployResult,
  ResultAck_Disposition,
  type ServerMessage,
  SyncDecision_Action,
  type SyncReply,
} from "@bowline/contract/agent";
import { type Clock, problem } from "@bowline/kernel";
import { type AgentChannel, type ChannelEnd, describeEnd, openSession, refusalOf } from "@bowline/session";
import type { Converger } from "./converge.ts";
import { createFetcher, type Fetcher } from "./fetch.ts";
import type { Journal, JournalledCommand } from "./journal.ts";
import { capacityOf, stateDigest } from "./load.ts";
import type { ConvergeProgress, Runtime, RuntimeDescription } from "./runtime.ts";
import { agentVersion } from "./version.ts";

/** How a session ended, for connect.ts. */
export type SessionEnd =
  | { kind: "stopped" }
  | { kind: "refused"; reason: string; message: string }
  | { kind: "drained"; spreadMs: number }
  | { kind: "superseded" }
  /** The counter was not above the floor: sign again above it. */
  | { kind: "replayed"; floor: number }
  | { kind: "lost"; message: string; retryAfterMs: number | undefined };

export interface ServePorts {
  stream: Transport;
  unary: Transport;
  journal: Journal;
  converger: Converger;
  runtime: Runtime;
  describe(): Promise<RuntimeDescription>;
  dataDir: string;
  labels: Record<string, string>;
  processId: string;
  clock: Clock;
  log: { info(fields: object, message: string): void; warn(fields: object, message: string): void };
  /** Everything that was observed so far, for the report after each greeting. */
  observed(): readonly DeploymentState[];
  /** Gives whoever makes reports a way out while this session serves. */
  attach(session: Uplink | undefined): void;
}

/** What the rest of the agent says while a session serves. */
export interface Uplink {
  result(result: DeployResult): void;
  progress(command: JournalledCommand, progress: ConvergeProgress): void;
  states(states: readonly DeploymentState[]): void;
}

/** Reasons after which dialling again is pointless until an operator acts. */
const refusals = new Set(["AGENT_REVOKED", "AGENT_RETIRED", "PROTOCOL_UNSUPPORTED"]);
/** The whole report, journal and results go in pages well below 64 KiB. */
const pageEntries = 50;
const statesPerReport = 20;
/** Heartbeats vary by this share, so that a fleet's don't come together. */
const heartbeatJitter = 0.1;
/** Half the life of an access token (10 min). */
const renewEveryMs = 5 * 60_000;
/** Space that a journal needs to go on; below it new work is refused with NOT_NOW. */
const minDiskFreeBytes = 16n * 1024n * 1024n;

/** Runs one session. Resolves with its end; never rejects for what a network or a server does. */
export async function serve(ports: ServePorts, assertion: string, signal: AbortSignal): Promise<SessionEnd> {
  const { journal, clock } = ports;
  const channel = openSession(ports.stream, { assertion, clock }, signal);
  const say = (message: MessageInitShape<typeof AgentMessageSchema>["message"]): void => {
    const outcome = channel.send(
      create(AgentMessageSchema, { message } as MessageInitShape<typeof AgentMessageSchema>),
    );
    if (outcome === "too-large") ports.log.warn({ message: message?.case }, "a message is too large for the stream");
  };
  let end: SessionEnd | undefined;
  let accessToken = "";
  let tokenCame: (() => void)[] = [];
  const fetcher = createFetcher(
    ports.unary,
    {
      token: () => accessToken,
      renew: () => {
        say({ case: "tokenRequest", value: {} });
        return new Promise((resolve) => tokenCame.push(resolve));
      },
    },
    channel.signal,
  );
  const stop = (): void => {
    end ??= { kind: "stopped" };
    say({ case: "goodbye", value: { reason: "the agent stops" } });
    channel.close();
  };

  say({ case: "connectRequest", value: await greeting(ports) });
  for await (const { message } of channel.messages) {
    switch (message.case) {
      case "connectResponse":
        await welcomed(message.value);
        break;
      case "syncReply":
        await synced(message.value);
        break;
      case "deployCommand":
        void receive(ports, fetcher, say, message.value);
        break;
      case "cancelCommand":
        ports.converger.cancel(message.value.commandId);
        break;
      case "resultAck":
        await acknowledged(message.value);
        break;
      case "sessionToken":
        accessToken = message.value.accessToken;
        for (const resume of tokenCame.splice(0)) resume();
        break;
      case "drain":
        end ??= { kind: "drained", spreadMs: message.value.spreadMs };
        break;
      case "superseded":
        end ??= { kind: "superseded" };
        break;
      case "messageRefused":
        ports.log.warn(
          { reason: message.value.reason, detail: message.value.message, command: message.value.commandId },
          "the server did not take a message",
        );
        break;
      default:
        break; // acknowledgements of heartbeats; messages of a newer server
    }
  }
  ports.attach(undefined);
  signal.removeEventListener("abort", stop);
  const how = await channel.ended;
  await channel.released;
  return end ?? endOf(how, signal);

  async function welcomed(response: ConnectResponse): Promise<void> {
    accessToken = response.accessToken;
    channel.limitSilence(response.silenceLimitMs);
    await journal.setNumber("epoch", Math.max(response.epoch, journal.number("epoch")));
    await journal.setNumber("incarnation", response.incarnation);
    void heartbeats(ports, say, response.heartbeatIntervalMs, channel);
    void renewals(say, clock, channel);
    for (const page of syncPages(journal)) say({ case: "sync", value: page });
    ports.log.info({ sessionId: response.sessionId, epoch: response.epoch }, "connected");
  }

  async function synced(reply: SyncReply): Promise<void> {
    for (const ack of reply.results) await acknowledged(ack);
    const commands = new Map(journal.inFlight().map((command) => [command.commandId, command]));
    for (const { commandId, action } of reply.decisions) {
      const command = commands.get(commandId);
      if (command === undefined) continue;
      await decide(command, action);
    }
    if (!reply.last) return;
    const uplink: Uplink = {
      result: (result) => say({ case: "deployResult", value: result }),
      progress: (command, { phase, percent, message, workloads }) =>
        say({
          case: "commandProgress",
          value: {
            commandId: command.commandId,
            attempt: command.attempt,
            phase,
            percent: Math.round(percent),
            message,
            workloads: [...workloads],
          },
        }),
      states: (states) => {
        for (let at = 0; at < states.length; at += statesPerReport) void report(states.slice(at, at + statesPerReport));
      },
    };
    ports.attach(uplink);
    for (const result of journal.unacknowledged()) uplink.result(result); // N3: ended since the Sync was sent
    uplink.states(ports.observed());
  }

  async function report(deployments: readonly DeploymentState[]): Promise<void> {
    const observation = journal.number("observation") + 1;
    await journal.setNumber("observation", observation);
    say({ case: "stateReport", value: { observation, deployments: [...deployments] } });
  }

  async function decide(command: JournalledCommand, action: SyncDecision_Action): Promise<void> {
    const { commandId, attempt } = command;
    switch (action) {
      case SyncDecision_Action.REPORT_AGAIN:
        say({
          case: "commandReceipt",
          value: { commandId, attempt, disposition: CommandReceipt_Disposition.DUPLICATE },
        });
        ports.converger.take(command);
        return;
      case SyncDecision_Action.CONTINUE:
        ports.converger.take(command);
        return;
      case SyncDecision_Action.CANCEL:
        ports.converger.take(command); // one that waits after a restart ends CANCELLED without a start
        ports.converger.cancel(commandId);
        return;
      default:
        ports.log.warn({ command: commandId }, "the server does not know a command that this agent has; it is held");
    }
  }

  async function acknowledged(ack: {
    commandId: string;
    attempt: number;
    disposition: ResultAck_Disposition;
  }): Promise<void> {
    switch (ack.disposition) {
      case ResultAck_Disposition.RECORDED:
      case ResultAck_Disposition.ALREADY_RECORDED:
      case ResultAck_Disposition.OBSOLETE:
        await journal.acknowledge(ack.commandId, ack.attempt);
        return;
      default:
        return; // RESEND: with the next session. UNKNOWN: kept, the server may have forgotten.
    }
  }
}

/** Fetches, journals, answers with a receipt, and hands over. */
async function receive(
  ports: ServePorts,
  fetcher: Fetcher,
  say: (
    message:
      | AgentMessage["message"]
      | {
          case: "commandReceipt";
          value: MessageInitShape<typeof import("@bowline/contract/agent").CommandReceiptSchema>;
        }
      | { case: "deployResult"; value: DeployResult },
  ) => void,
  command: DeployCommand,
): Promise<void> {
  const { journal, log } = ports;
  const { commandId, attempt } = command;
  const receipt = (disposition: CommandReceipt_Disposition, reason = "", message = ""): void =>
    say({
      case: "commandReceipt",
      value: { $typeName: "bowline.agent.v1.CommandReceipt", commandId, attempt, disposition, reason, message },
    });
  const done = journal.outcomeOf(commandId, attempt);
  if (done !== undefined) return say({ case: "deployResult", value: done });
  const known = journal.inFlight().find((one) => one.commandId === commandId);
  if (known?.attempt === attempt) {
    ports.converger.take(known);
    return receipt(CommandReceipt_Disposition.DUPLICATE);
  }
  try {
    if ((await capacityOf(ports)).diskFreeBytes < minDiskFreeBytes && !command.reduces) {
      return receipt(CommandReceipt_Disposition.NOT_NOW, "DISK_FULL", "too little space is left on the agent's disk");
    }
    const fetched = await fetcher.fetch(command);
    if (fetched.kind === "not-in-flight") return; // the server moved on; what it wants now comes by itself
    if (fetched.kind === "wrong-digest") {
      return receipt(
        CommandReceipt_Disposition.REJECTED,
        "SPEC_INVALID",
        "the spec's bytes are not what the command names",
      );
    }
    const { deploymentId, generation, digest, productPublishId, runTimeoutMs, reduces } = command;
    const journalled = {
      commandId,
      attempt,
      deploymentId,
      generation,
      digest,
      productPublishId,
      runTimeoutMs,
      reduces,
      spec: fetched.spec,
      starts: 0,
    };
    await journal.receive([journalled]); // N2
    receipt(CommandReceipt_Disposition.ACCEPTED);
    ports.converger.take(journal.inFlight().find((one) => one.commandId === commandId) ?? journalled);
  } catch (error) {
    if (isDiskFull(error))
      return receipt(CommandReceipt_Disposition.NOT_NOW, "DISK_FULL", "the journal cannot be written");
    log.warn({ error, command: commandId }, "a command could not be fetched; it is pushed again");
  }
}

function isDiskFull(error: unknown): boolean {
  return error instanceof Error && "code" in error && (error.code === "ENOSPC" || error.code === "EDQUOT");
}

async function greeting(ports: ServePorts) {
  const described = await ports.describe();
  const { journal } = ports;
  return {
    processId: ports.processId,
    agentVersion,
    protocolMin: 1,
    protocolMax: 1,
    runtime: described.kind,
    runtimeVersion: described.version,
    runtimeIdentity: described.identity,
    runtimeProblem: described.problem,
    capabilities: [...described.capabilities],
    labels: ports.labels,
    journalId: journal.id,
    journalCounter: journal.counter,
    highestEpoch: journal.number("epoch"),
    incarnation: journal.number("incarnation"),
    stateDigest: stateDigest(journal),
    capacity: await capacityOf(ports),
  };
}

function* syncPages(journal: Journal) {
  const entries = journal.inFlight().map(({ commandId, attempt, deploymentId, generation, starts }) => ({
    commandId,
    attempt,
    deploymentId,
    generation,
    phase: starts > 0 ? "RUNNING" : "RECEIVED",
  }));
  const deployments = journal
    .good()
    .map(({ deploymentId, generation, digest }) => ({ deploymentId, generation, digest }));
  const results = [...journal.unacknowledged()];
  for (let at = 0; at < entries.length; at += pageEntries) yield { journal: entries.slice(at, at + pageEntries) };
  for (let at = 0; at < deployments.length; at += pageEntries)
    yield { deployments: deployments.slice(at, at + pageEntries) };
  for (let at = 0; at < results.length; at += statesPerReport)
    yield { results: results.slice(at, at + statesPerReport) };
  yield { last: true };
}

async function heartbeats(
  ports: ServePorts,
  say: (message: MessageInitShape<typeof AgentMessageSchema>["message"]) => void,
  intervalMs: number,
  channel: AgentChannel,
): Promise<void> {
  for (let number = 1; ; number += 1) {
    await ports.clock.sleep(intervalMs * (1 - heartbeatJitter + 2 * heartbeatJitter * Math.random()), channel.signal);
    if (channel.signal.aborted) return;
    const described = await ports.describe();
    say({
      case: "heartbeat",
      value: {
        number,
        capacity: await capacityOf(ports),
        runtimeProblem: described.problem,
        agentTime: timestampNow(),
        stateDigest: stateDigest(ports.journal),
        observation: ports.journal.number("observation"),
      },
    });
  }
}

async function renewals(
  say: (message: MessageInitShape<typeof AgentMessageSchema>["message"]) => void,
  clock: Clock,
  channel: AgentChannel,
): Promise<void> {
  for (;;) {
    await clock.sleep(renewEveryMs, channel.signal);
    if (channel.signal.aborted) return;
    say({ case: "tokenRequest", value: {} });
  }
}

function endOf(how: ChannelEnd, signal: AbortSignal): SessionEnd {
  if (signal.aborted) return { kind: "stopped" };
  if (how.kind !== "failed") return { kind: "lost", message: describeEnd(how), retryAfterMs: undefined };
  const refusal = refusalOf(how.error);
  if (refusal.reason === "ASSERTION_REPLAYED")
    return { kind: "replayed", floor: Number(refusal.metadata["floor"] ?? 0) };
  if (refusals.has(refusal.reason)) return { kind: "refused", reason: refusal.reason, message: refusal.message };
  return { kind: "lost", message: `${refusal.reason}: ${refusal.message}`, retryAfterMs: refusal.retryAfterMs };
}

export type { ServerMessage };
export { problem };
