/**
 * One agent's stream: greeting, Sync, serving, end. The engine is reached only
 * through batches (intake.ts) and the dispatcher.
 *
 * SYNCING until the last Sync page is reconciled; only then SERVING, and only
 * then are commands claimed for it.
 */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { type AgentMessage, ServerMessageSchema, type Sync } from "@bowline/contract/agent";
import { type Clock, isProblem, type Problem, problem } from "@bowline/kernel";
import { type ChannelEnd, maxStreamMessageBytes, type PushedSession } from "@bowline/session";
import type { EnginePorts } from "../commands/index.ts";
import { problemOf } from "../platform/problems.ts";
import type { Dials } from "./dials.ts";
import type { Ends } from "./ends.ts";
import type { Dispatcher } from "./dispatcher.ts";
import { type Asserted, welcome } from "./greet.ts";
import type { Intake } from "./intake.ts";
import {
  type EndReason,
  endsInOrder,
  lastWord,
  type LeaveReason,
  type LiveSession,
  type LiveSessions,
} from "./live.ts";
import { isFlood, type Pace } from "./pace.ts";
import { type Speaker, take } from "./messages.ts";
import { type OpenedSession } from "./open.ts";
import type { AccessTokens } from "./signing-keys.ts";
import type { Openings } from "./openings.ts";
import type { PlainSyncs } from "./plain-syncs.ts";
import { createStepTimes } from "./step-times.ts";
import { storable } from "./storable.ts";
import { entriesOf, finishSync, maxSyncEntries } from "./sync.ts";

export interface StreamPorts {
  engine: () => EnginePorts;
  live: LiveSessions;
  dispatcher: Dispatcher;
  intake: Intake;
  dials: Pick<Dials, "working">;
  openings: Openings;
  ends: Ends;
  plainSyncs: PlainSyncs;
  tokens: AccessTokens;
  pace: Pace;
  clock: Clock;
  replicaId: string;
  heartbeatIntervalMs: number;
  silenceLimitMs: number;
}

/** Time for the first message after the dial: one round trip and a slow host. */
const greetingWithinMs = 10_000;

/** Serves one stream to its end. Throws a problem where the agent is refused. */
export async function serveStream(
  ports: StreamPorts,
  asserted: Asserted,
  dialled: { remoteAddress: string; clientCertificate: string },
  channel: PushedSession,
  /** Calls back when the call is over, or cancelled. */
  aborted: (callback: () => void) => void,
): Promise<void> {
  const { clock } = ports;
  const inbound = received(channel);
  const opened = await greet(ports, asserted, dialled, inbound.first()).catch(async (error: unknown) => {
    channel.close(problemOf(error));
    throw whyUnreadable(await channel.ended) ?? error;
  });
  const { agentId } = asserted;
  let reason: EndReason | undefined;
  let leaving: LeaveReason | undefined;
  const session: LiveSession & Speaker = {
    agentId,
    clusterId: opened.clusterId,
    transport: "STREAM",
    sessionId: opened.sessionId,
    epoch: opened.epoch,
    times: createStepTimes(ports.engine().metrics),
    get queued() {
      return channel.queued;
    },
    openedAt: clock.monotonicMs(),
    phase: "syncing",
    takes: "everything",
    pushedRemovals: new Set(),
    lastSeen: new Date(),
    send(message) {
      const outcome = channel.send(create(ServerMessageSchema, message));
      if (outcome === "full" || outcome === "too-large") ports.engine().metrics?.dropped("outbox");
    },
    acknowledge: (number) => void channel.acknowledge(number),
    leave(why, spreadMs) {
      leaving ??= why;
      session.send({ message: { case: "drain", value: { spreadMs } } });
    },
    close(why, last = lastWord(why)) {
      reason ??= why;
      session.phase = "ended";
      if (last !== undefined) channel.send(create(ServerMessageSchema, last));
      channel.close();
    },
  };
  ports.live.add(session);
  ports.engine().metrics?.sessionOpened(session.transport);
  aborted(() => {
    if (channel.open) session.close("CONNECTION_LOST"); // else the channel's end says why
  });
  try {
    session.send({ message: { case: "connectResponse", value: await welcome(ports, opened, agentId) } });
    inbound.serve(reader(ports, session, opened), (error) => {
      ports.engine().log.warn({ error, agentId }, "a stream ended with an error");
      reason ??= isFlood(error)
        ? "FLOODING"
        : isProblem(error, "PROTOCOL_VIOLATION")
          ? "PROTOCOL_VIOLATION"
          : "CONNECTION_LOST";
      session.phase = "ended";
      channel.close(problemOf(error));
    });
    await channel.sent;
    channel.close(); // where its transport left first
    const end = await channel.ended;
    const unreadable = whyUnreadable(end);
    if (unreadable !== undefined) {
      reason ??= "PROTOCOL_VIOLATION";
      throw unreadable;
    }
    const because = end.kind === "closed" ? end.because : end.kind === "violated" ? end.problem : undefined;
    if (because !== undefined) throw because;
  } finally {
    session.phase = "ended";
    channel.close();
    const because = reason ?? endReason(await channel.ended);
    const why = leaving !== undefined && endsInOrder(because) ? leaving : because;
    ports.engine().metrics?.sessionEnded(session.transport, why);
    const recorded = ports.ends.end({ agentId, epoch: opened.epoch, reason: why }).catch((error: unknown) => {
      // The database is away: this replica's upkeep ends it later, or the agent's next session does.
      ports.engine().log.warn({ error, agentId }, "the end of a session could not be recorded");
    });
    ports.live.remove(session, recorded);
    await recorded;
  }
}

type Take = (message: AgentMessage) => void | Promise<void>;

/** The first message, and the others once somebody serves them: until then nothing more is read. */
function received(channel: PushedSession) {
  let take: Take | undefined;
  let serving: () => void = () => {};
  const served = new Promise<void>((resolve) => (serving = resolve));
  /** Forgotten once it is called, and in no closure: it would keep the greeting for as long as the stream is read. */
  let greeted: ((message: AgentMessage | undefined) => void) | undefined;
  const greet = (message: AgentMessage | undefined): void => {
    greeted?.(message);
    greeted = undefined;
  };
  return {
    /** Once. Undefined: it ended before. */
    first(): Promise<AgentMessage | undefined> {
      const { promise, resolve } = Promise.withResolvers<AgentMessage | undefined>();
      greeted = resolve;
      channel.receive((message) => {
        if (take !== undefined) return take(message);
        greet(message);
        return served;
      });
      void channel.ended.then(() => greet(undefined));
      return promise;
    },
    serve(given: Take, failed: (error: unknown) => void): void {
      take = (message) => {
        try {
          return given(message)?.catch(failed);
        } catch (error) {
          failed(error);
          return undefined;
        }
      };
      serving();
    },
  };
}

/** What is told to an agent whose message could not be decoded; undefined where its connection just ended. */
function whyUnreadable(end: ChannelEnd): Problem | undefined {
  if (end.kind !== "failed" || !(end.error instanceof ConnectError)) return undefined;
  switch (end.error.code) {
    case Code.ResourceExhausted:
      return problem("BODY_TOO_LARGE", `A message of the stream has at most ${maxStreamMessageBytes} bytes.`);
    case Code.InvalidArgument:
    case Code.Internal: // bytes that are no message
    case Code.DataLoss:
      return problem("MALFORMED_BODY", `A message of the stream cannot be read: ${end.error.rawMessage}`);
    default:
      return undefined;
  }
}

function endReason(end: ChannelEnd): EndReason {
  switch (end.kind) {
    case "silent":
      return "HEARTBEAT_MISSED";
    case "stalled":
      return "NOT_READING";
    case "violated":
      return "PROTOCOL_VIOLATION";
    case "peer-closed":
    case "closed":
    case "failed":
      return "CONNECTION_LOST";
    default:
      return end satisfies never;
  }
}

async function greet(
  ports: StreamPorts,
  asserted: Asserted,
  { remoteAddress, clientCertificate }: { remoteAddress: string; clientCertificate: string },
  message: Promise<AgentMessage | undefined>,
): Promise<OpenedSession> {
  const late = new AbortController();
  const first = await Promise.race([message, ports.clock.sleep(greetingWithinMs, late.signal).then(() => undefined)]);
  late.abort();
  if (first?.message.case !== "connectRequest") throw problem("PROTOCOL_VIOLATION", "No ConnectRequest came.");
  const greeting = storable(first.message.value);
  const { replicaId } = ports;
  const facts = {
    ...asserted,
    ...{ replicaId, remoteAddress, clientCertificate, greeting },
    transport: "STREAM",
  } as const;
  const opened = await ports.dials.working(() => ports.openings.open(facts));
  ports.intake.seen(asserted.agentId, greeting.capacity);
  return opened;
}

/** What is done with each message after the greeting. */
function reader(ports: StreamPorts, session: LiveSession & Speaker, opened: OpenedSession): Take {
  const pages: Sync[] = [];
  let entries = 0;
  return (said) => {
    if (session.phase === "ended") return;
    session.lastSeen = new Date();
    ports.pace.count(session.agentId);
    // Of a heartbeat only numbers are written, and made to fit there (intake.ts).
    const { message } = said.message.case === "heartbeat" ? said : storable(said);
    switch (message.case) {
      case "sync":
        pages.push(message.value);
        entries += entriesOf(message.value);
        if (entries > maxSyncEntries) throw problem("PROTOCOL_VIOLATION", "Sync lists more than a server takes.");
        if (!message.value.last) return;
        return finishSync(ports, session, opened, pages.splice(0), (value) =>
          session.send({ message: { case: "syncReply", value } }),
        );
      case "goodbye":
        return session.close("CLOSED_CLEANLY");
      default:
        return take(ports, session, opened, message).next;
    }
  };
}
