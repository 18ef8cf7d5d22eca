/**
 * One session, from greeting to end.
 *
 *   connect.ts  dials, and waits between sessions    intake.ts   takes what is pushed
 *   pages.ts    what Sync tells                      observe.ts  what runs
 *
 * S1: nothing about commands is said before the last SyncReply.
 * S2: a result is sent on every session, and again within one, until it is
 *     acknowledged (J2).
 * S3: the session ends in order with Goodbye where this agent ends it.
 * S4: asked to leave, it is served until its moment within the spread: it is
 *     away for one dial, not for the spread.
 *
 * Long because all that a session says shares its token, its channel and what it
 * has sent already.
 */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import {
  AgentMessageSchema,
  CommandReceipt_Disposition,
  ResultAck_Disposition,
  SyncDecision_Action,
  type ConnectResponse,
  type DeployResult,
  type ResultAck,
  type SyncDecision,
  type SyncReply,
} from "@bowline/contract/agent";
import { accessTokenLifeMs } from "@bowline/auth";
import type { Clock } from "@bowline/kernel";
import {
  describeEnd,
  openPolling,
  openSession,
  refusalOf,
  silenceLimitMs,
  type AgentTransport,
  type ChannelEnd,
} from "@bowline/session";
import type { AgentConfig } from "./config.ts";
import type { Converger } from "./converge.ts";
import { createFetcher } from "./fetch.ts";
import { createIntake } from "./intake.ts";
import type { Traces } from "@bowline/traces";
import type { Journal } from "./journal.ts";
import { capacityOf, diskFree as diskFreeIn, machineLoad, type MachineLoad } from "./load.ts";
import type { Log } from "./log.ts";
import type { Observer } from "./observe.ts";
import { syncPages } from "./pages.ts";
import { untilStreamPasses } from "./probe.ts";
import type { Runtime } from "./runtime.ts";
import { stateDigestOf } from "./specs.ts";
import type { Tunnels } from "./tunnels.ts";
import { agentVersion, protocol } from "./version.ts";

/** How a session ended, for connect.ts. */
export type SessionEnd =
  /** This agent stops. */
  | { kind: "stopped" }
  /** The server refuses this agent for good. */
  | { kind: "refused"; reason: string; message: string }
  /** The server asked this agent to connect again, in so long. */
  | { kind: "drained"; waitMs: number }
  /** Another process with this identity took over. */
  | { kind: "superseded" }
  /** The counter was not above the server's: sign above it. */
  | { kind: "replayed"; floor: number }
  /** It polled, and a stream passes now. */
  | { kind: "streams-pass" }
  /** `greeted`: the server had answered the greeting. */
  | { kind: "lost"; reason: string; message: string; retryAfterMs: number | undefined; greeted: boolean };

/** How unary calls of a session are made: what authorises them is renewed inside the stream. */
export interface SessionCalls {
  unary: AgentTransport["unary"];
  token(): string;
  /** Resolves when there is a new token. */
  renew(): Promise<void>;
}

export interface ServePorts {
  config: Pick<AgentConfig, "dataDir" | "labels" | "greetingWithinMs" | "streamRetryMs" | "transport">;
  /** Tells two processes with one identity apart. */
  processId: string;
  runtime: Runtime;
  /** `gateway-class/<name>` of each data plane class here. */
  gatewayClasses: readonly string[];
  journal: Journal;
  converger: Converger;
  observer: Observer;
  /** While a session polls: how many times later than usual it looks for a stream (T3). */
  lookLater?: () => number;
  /** Told once the session serves, until `over` aborts. */
  serving?: (session: SessionCalls, over: AbortSignal) => void;
  /** Unset: tunnels are not opened. */
  tunnels?: Pick<Tunnels, "open">;
  clock: Clock;
  log: Log;
  traces: Traces;
  random?: () => number;
  /** Bytes free where the journal is. */
  diskFree?: () => Promise<bigint>;
  /** How busy the machine is. */
  load?: () => MachineLoad;
}

/** Reasons after which dialling again is pointless until an operator acts. */
const forGood = new Set(["AGENT_REVOKED", "AGENT_RETIRED", "AGENT_KEY_REPLACED", "ASSERTION_INVALID"]);
/** Where the server names none. */
const heartbeatIntervalMs = 15_000;
/** Heartbeats vary by this share, so that a fleet's don't come together. */
const heartbeatJitter = 0.1;
/** A result without an answer for this long is sent again with the next heartbeat. */
const repeatResultAfterMs = 10_000;

/** Runs one session. Resolves with its end; what a network or a server does is never an error here. */
export async function serve(
  ports: ServePorts,
  transport: AgentTransport,
  assertion: string,
  signal: AbortSignal,
): Promise<SessionEnd> {
  const { journal, converger, observer, clock, log, random = Math.random } = ports;
  const { diskFree = () => diskFreeIn(ports.config.dataDir), load = machineLoad } = ports;
  const cut = new AbortController();
  const opening = { assertion, clock, silenceMs: ports.config.greetingWithinMs };
  const channel =
    transport.kind === "poll"
      ? openPolling(transport.unary, opening, cut.signal)
      : openSession(transport.stream, opening, cut.signal);
  let end: SessionEnd | undefined;
  let greeted = false;
  let serving = false;
  let accessToken = "";
  let tokenLifeMs = accessTokenLifeMs;
  /** When this agent leaves because the server asked it to. */
  let leaveAt: number | undefined;
  const tokenCame = new Set<() => void>();
  /** When each result was last sent; Infinity: the server wants it on another session only. */
  const sentAt = new Map<string, number>();

  const authorised: SessionCalls = {
    unary: transport.unary,
    token: () => accessToken,
    renew: () => {
      say({ case: "tokenRequest", value: {} });
      return new Promise((resolve) => tokenCame.add(resolve));
    },
  };
  const fetcher = createFetcher(transport.unary, authorised, channel.signal);
  const intake = createIntake({
    ...{ journal, converger, fetcher, log },
    traces: ports.traces,
    diskFree,
    receipt: (receipt) => say({ case: "commandReceipt", value: receipt }),
    result: sendResult,
  });
  const goodbye = (why: SessionEnd = { kind: "stopped" }): void => {
    end ??= why;
    const reason = why.kind === "stopped" ? "the agent stops" : "a stream follows";
    if (greeted) say({ case: "goodbye", value: { reason } }); // S3, also in the middle of Sync
    channel.close();
    if (!greeted) cut.abort(); // Nobody has answered yet, so nobody is waited for.
  };
  const stopping = (): void => goodbye();
  signal.addEventListener("abort", stopping, { once: true });
  try {
    if (signal.aborted) goodbye();
    else say({ case: "connectRequest", value: await greeting() });
    for await (const { message } of channel.messages) {
      switch (message.case) {
        case "connectResponse":
          await welcomed(message.value);
          break;
        case "syncReply":
          await synced(message.value);
          break;
        case "deployCommand":
          void intake.push(message.value);
          break;
        case "cancelCommand":
          intake.cancel(message.value.commandId, message.value.attempt);
          break;
        case "resultAck":
          await acknowledged(message.value);
          break;
        case "sessionToken":
          accessToken = message.value.accessToken;
          tokenLifeMs = message.value.accessTokenLifeMs || accessTokenLifeMs;
          for (const resume of tokenCame) resume();
          tokenCame.clear();
          break;
        case "drain":
          void leave(message.value.spreadMs);
          break;
        case "openTunnel":
          ports.tunnels?.open(message.value, { kind: transport.kind, token: () => authorised.token() });
          break;
        case "superseded":
          end ??= { kind: "superseded" };
          channel.close();
          break;
        case "messageRefused": {
          const { reason, message: detail, commandId } = message.value;
          log.warn(
            { reason, detail, ...(commandId === "" ? {} : { command: commandId }) },
            "the server did not take a message",
          );
          break;
        }
        default:
          break; // Answers to heartbeats; credentials, which this build has none of; newer words.
      }
    }
  } finally {
    signal.removeEventListener("abort", stopping);
    observer.report(undefined);
    converger.listener = undefined;
    channel.close();
  }
  const how = await channel.ended;
  await channel.released;
  const ending = end ?? endOf(how, greeted);
  if (ending.kind !== "lost" || leaveAt === undefined) return ending;
  return { kind: "drained", waitMs: Math.max(0, leaveAt - clock.monotonicMs()) };

  /** S4. A replica that is gone before ends the wait with the stream. */
  async function leave(spreadMs: number): Promise<void> {
    const inMs = random() * spreadMs;
    leaveAt = Math.min(leaveAt ?? Infinity, clock.monotonicMs() + inMs);
    if (inMs > 0) await clock.sleep(inMs, channel.signal);
    if (channel.signal.aborted) return;
    end ??= { kind: "drained", waitMs: 0 };
    say({ case: "goodbye", value: { reason: "the server asked to connect again" } }); // S3
    channel.close();
  }

  function say(message: MessageInitShape<typeof AgentMessageSchema>["message"]): void {
    const outcome = channel.send(
      create(AgentMessageSchema, { message } as MessageInitShape<typeof AgentMessageSchema>),
    );
    if (outcome === "too-large") log.error({ message: message?.case }, "a message is too large for the stream");
  }

  async function greeting() {
    const { kind, version, identity, problem, capabilities } = await ports.runtime.describe();
    return {
      processId: ports.processId,
      agentVersion,
      protocolMin: protocol.min,
      protocolMax: protocol.max,
      runtime: kind,
      runtimeVersion: version,
      runtimeIdentity: identity,
      runtimeProblem: problem,
      capabilities: [...capabilities, ...ports.gatewayClasses],
      labels: { ...ports.config.labels },
      journalId: journal.id,
      journalCounter: journal.counter,
      highestEpoch: journal.number("epoch"),
      incarnation: journal.number("incarnation"),
      highestGeneration: [...journal.allHighest()].reduce((most, [, { generation }]) => Math.max(most, generation), 0),
      stateDigest: stateDigestOf(journal.good()),
      capacity: await capacity(),
    };
  }

  async function capacity() {
    const { instanceLimit } = await ports.runtime.describe();
    const inFlight = journal.inFlight().length;
    const diskFreeBytes = await diskFree();
    return capacityOf({ load: load(), diskFreeBytes, running: observer.running(), instanceLimit, inFlight });
  }

  async function welcomed(response: ConnectResponse): Promise<void> {
    greeted = true;
    accessToken = response.accessToken;
    tokenLifeMs = response.accessTokenLifeMs || accessTokenLifeMs;
    channel.limitSilence(response.silenceLimitMs || silenceLimitMs);
    await journal.setNumber("epoch", Math.max(response.epoch, journal.number("epoch")));
    await journal.setNumber("incarnation", response.incarnation);
    const polls = transport.kind === "poll" ? 1 : 0;
    if (journal.number("polls") !== polls) await journal.setNumber("polls", polls); // T4
    for (const page of syncPages(journal, converger, !response.stateKnown)) say({ case: "sync", value: page });
    void heartbeats(response.heartbeatIntervalMs || heartbeatIntervalMs);
    void renewals();
    void leaveForStream();
    log.info({ session: response.sessionId, epoch: response.epoch, transport: transport.kind }, "connected");
  }

  async function synced(reply: SyncReply): Promise<void> {
    for (const decision of reply.decisions) decide(decision);
    for (const ack of reply.results) await acknowledged(ack);
    if (!reply.last) return;
    if (reply.awaitingDecision) {
      log.warn(
        {},
        "the server's database is older than what this agent was told; nothing changes here until an operator decides",
      );
    }
    serving = true; // S1
    converger.listener = {
      finished: sendResult,
      progressed: ({ commandId, attempt, phase, percent, message, workloads }) =>
        say({
          case: "commandProgress",
          value: {
            ...{ commandId, attempt, phase, message },
            percent: Math.round(percent),
            workloads: workloads.slice(0, 100).map((one) => ({ ...one, percent: Math.round(one.percent) })),
          },
        }),
    };
    for (const result of journal.unacknowledged()) if (!sentAt.has(keyOf(result))) sendResult(result); // S2
    observer.report((report) => say({ case: "stateReport", value: report }));
    ports.serving?.(authorised, channel.signal);
  }

  /** `journal` says which commands are here; they run since before this session. */
  function decide({ commandId, attempt, action }: SyncDecision): void {
    switch (action) {
      case SyncDecision_Action.REPORT_AGAIN: {
        const done = journal.outcomeOf(commandId, attempt);
        if (done !== undefined) sendResult(done);
        else
          say({
            case: "commandReceipt",
            value: { commandId, attempt, disposition: CommandReceipt_Disposition.DUPLICATE },
          });
        return;
      }
      case SyncDecision_Action.CANCEL:
        intake.cancel(commandId, attempt);
        return;
      case SyncDecision_Action.HOLD:
        log.warn(
          { command: commandId },
          "the server does not know a command that this agent has; what it made is kept",
        );
        return;
      case SyncDecision_Action.CONTINUE:
      case SyncDecision_Action.ACTION_UNSPECIFIED:
        return;
      default:
        return; // A newer server's word; the command goes on.
    }
  }

  async function acknowledged(ack: ResultAck): Promise<void> {
    switch (ack.disposition) {
      case ResultAck_Disposition.RECORDED:
      case ResultAck_Disposition.ALREADY_RECORDED:
      case ResultAck_Disposition.OBSOLETE:
        try {
          await journal.acknowledge(ack.commandId, ack.attempt);
          sentAt.delete(keyOf(ack));
        } catch (error) {
          // A full disk, as a rule. The result is said again (S2), and is acknowledged again.
          log.warn({ command: ack.commandId, error: String(error) }, "an acknowledgement could not be journalled");
        }
        return;
      default: // RESEND: on the next session. UNKNOWN: kept, the server may be a restored one.
        sentAt.set(keyOf(ack), Infinity);
    }
  }

  function sendResult(result: DeployResult): void {
    sentAt.set(keyOf(result), clock.monotonicMs());
    say({ case: "deployResult", value: result });
  }

  async function heartbeats(intervalMs: number): Promise<void> {
    for (let number = 1; ; number += 1) {
      await clock.sleep(intervalMs * (1 + heartbeatJitter * (2 * random() - 1)), channel.signal);
      if (channel.signal.aborted) return;
      const { problem } = await ports.runtime.describe();
      const stateDigest = stateDigestOf(journal.good());
      const value = { number, runtimeProblem: problem, agentTime: timestampNow(), stateDigest };
      say({ case: "heartbeat", value: { ...value, capacity: await capacity(), observation: observer.observation } });
      if (!serving) continue;
      for (const result of journal.unacknowledged()) {
        if (clock.monotonicMs() - (sentAt.get(keyOf(result)) ?? -Infinity) >= repeatResultAfterMs) sendResult(result);
      }
    }
  }

  async function leaveForStream(): Promise<void> {
    if (transport.kind !== "poll" || ports.config.transport === "poll") return;
    const probing = {
      token: () => accessToken,
      everyMs: ports.config.streamRetryMs,
      later: ports.lookLater?.() ?? 1,
      clock,
    };
    if (!(await untilStreamPasses(transport, probing, channel.signal)) || channel.signal.aborted) return;
    log.info({}, "a stream passes again; the session moves to one");
    goodbye({ kind: "streams-pass" });
  }

  async function renewals(): Promise<void> {
    for (;;) {
      await clock.sleep(tokenLifeMs / 2, channel.signal);
      if (channel.signal.aborted) return;
      say({ case: "tokenRequest", value: {} });
    }
  }
}

function endOf(how: ChannelEnd, greeted: boolean): SessionEnd {
  if (how.kind !== "failed") {
    return {
      kind: "lost",
      reason: how.kind.toUpperCase(),
      message: describeEnd(how),
      retryAfterMs: undefined,
      greeted,
    };
  }
  const { reason, message, retryAfterMs, metadata } = refusalOf(how.error);
  if (reason === "ASSERTION_REPLAYED") return { kind: "replayed", floor: Number(metadata["floor"] ?? 0) };
  if (forGood.has(reason)) return { kind: "refused", reason, message };
  if (reason === "SESSION_SUPERSEDED") return { kind: "superseded" };
  return { kind: "lost", reason, message, retryAfterMs, greeted };
}

function keyOf({ commandId, attempt }: { commandId: string; attempt: number }): string {
  return `${commandId} ${attempt}`;
}
