/**
 * One agent's stream: greeting, Sync, serving, end. The engine is reached only
 * through batches (intake.ts) and the dispatcher.
 *
 * SYNCING until the last Sync page is reconciled; only then SERVING, and only
 * then are commands claimed for it.
 */
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { type AgentMessage, type ServerMessage, ServerMessageSchema, type Sync } from "@bowline/contract/agent";
import { type Clock, isProblem, type Problem, problem } from "@bowline/kernel";
import { acceptSession, type ChannelEnd, maxStreamMessageBytes } from "@bowline/session";
import type { EnginePorts } from "../commands/index.ts";
import { problemOf } from "../platform/problems.ts";
import type { Dials } from "./dials.ts";
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
import { take } from "./messages.ts";
import { endSession, type OpenedSession, openSession } from "./open.ts";
import type { AccessTokens } from "./signing-keys.ts";
import { createStepTimes } from "./step-times.ts";
import { storable } from "./storable.ts";
import { entriesOf, finishSync, maxSyncEntries } from "./sync.ts";

export interface StreamPorts {
  engine: () => EnginePorts;
  live: LiveSessions;
  dispatcher: Dispatcher;
  intake: Intake;
  dials: Pick<Dials, "working">;
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
export async function* serveStream(
  ports: StreamPorts,
  asserted: Asserted,
  dialled: { remoteAddress: string; clientCertificate: string; hangUp: () => void; aborted: AbortSignal },
  requests: AsyncIterable<AgentMessage>,
): AsyncGenerator<ServerMessage> {
  const { clock } = ports;
  const channel = acceptSession(requests, { clock, hangUp: dialled.hangUp, silenceMs: ports.silenceLimitMs });
  const messages = channel.messages[Symbol.asyncIterator]();
  const opened = await greet(ports, asserted, dialled, messages).catch(async (error: unknown) => {
    channel.close(problemOf(error));
    throw whyUnreadable(await channel.ended) ?? error;
  });
  const { agentId } = asserted;
  let reason: EndReason | undefined;
  let leaving: LeaveReason | undefined;
  const session: LiveSession = {
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
  dialled.aborted.addEventListener("abort", () => session.close("CONNECTION_LOST"), {
    once: true,
    signal: channel.signal,
  });
  try {
    session.send({ message: { case: "connectResponse", value: await welcome(ports, opened, agentId) } });
    void read(ports, session, opened, messages).then(
      (why) => (why === undefined ? channel.close() : session.close(why)),
      (error: unknown) => {
        ports.engine().log.warn({ error, agentId }, "a stream ended with an error");
        reason ??= isFlood(error)
          ? "FLOODING"
          : isProblem(error, "PROTOCOL_VIOLATION")
            ? "PROTOCOL_VIOLATION"
            : "CONNECTION_LOST";
        session.phase = "ended";
        channel.close(problemOf(error));
      },
    );
    yield* channel.outgoing;
    const unreadable = whyUnreadable(await channel.ended);
    if (unreadable !== undefined) {
      reason ??= "PROTOCOL_VIOLATION";
      throw unreadable;
    }
  } finally {
    session.phase = "ended";
    channel.close();
    const because = reason ?? endReason(await channel.ended);
    const why = leaving !== undefined && endsInOrder(because) ? leaving : because;
    ports.engine().metrics?.sessionEnded(session.transport, why);
    const recorded = endSession(ports.engine(), agentId, opened.epoch, why).catch((error: unknown) => {
      // The database is away: this replica's upkeep ends it later, or the agent's next session does.
      ports.engine().log.warn({ error, agentId }, "the end of a session could not be recorded");
    });
    ports.live.remove(session, recorded);
    await recorded;
  }
}

/** What is told to an agent whose message could not be decoded; undefined where its connection just ended. */
function whyUnreadable(end: ChannelEnd): Problem | undefined {
  if (end.kind !== "failed" || !(end.error instanceof ConnectError)) return undefined;
  switch (end.error.code) {
    case Code.ResourceExhausted:
      return problem("BODY_TOO_LARGE", `A message of the stream has at most ${maxStreamMessageBytes} bytes.`);
    case Code.InvalidArgument:
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
  messages: AsyncIterator<AgentMessage>,
): Promise<OpenedSession> {
  const late = new AbortController();
  const first = await Promise.race([
    messages.next(),
    ports.clock.sleep(greetingWithinMs, late.signal).then(() => undefined),
  ]);
  late.abort();
  if (first === undefined || first.done === true || first.value.message.case !== "connectRequest") {
    throw problem("PROTOCOL_VIOLATION", "No ConnectRequest came.");
  }
  const greeting = storable(first.value.message.value);
  const { replicaId } = ports;
  const facts = {
    ...asserted,
    ...{ replicaId, remoteAddress, clientCertificate, greeting },
    transport: "STREAM",
  } as const;
  const opened = await ports.dials.working(() => openSession(ports.engine(), facts));
  ports.intake.seen(asserted.agentId, greeting.capacity);
  return opened;
}

/** Reads until the agent or the connection ends. Undefined: the channel knows why. */
async function read(
  ports: StreamPorts,
  session: LiveSession,
  opened: OpenedSession,
  messages: AsyncIterator<AgentMessage>,
): Promise<EndReason | undefined> {
  const pages: Sync[] = [];
  for (;;) {
    const next = await messages.next();
    if (next.done === true || session.phase === "ended") return undefined;
    session.lastSeen = new Date();
    await ports.pace.count(session.agentId);
    const { message } = storable(next.value);
    switch (message.case) {
      case "sync":
        pages.push(message.value);
        if (pages.reduce((sum, page) => sum + entriesOf(page), 0) > maxSyncEntries) {
          throw problem("PROTOCOL_VIOLATION", "Sync lists more than a server takes.");
        }
        if (!message.value.last) break;
        await finishSync(ports, session, opened, pages.splice(0), (value) =>
          session.send({ message: { case: "syncReply", value } }),
        );
        break;
      case "goodbye":
        return "CLOSED_CLEANLY";
      default:
        await take(ports, session, opened, message);
    }
  }
}
