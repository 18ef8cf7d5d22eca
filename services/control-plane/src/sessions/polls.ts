/**
 * Sessions without a stream: the half of each that this replica holds.
 *
 *   mailbox.ts   what waits to be polled     messages.ts   what a message does
 *   poll-rpc.ts  the requests                poll-fence.ts  whether they are let through
 *
 * What a request says is taken by whichever replica it reaches: its fences are
 * rows, as a stream's are. What the server says waits in one replica, the one
 * that the session's row names, and a poll that reaches another one brings the
 * session there, with its epoch.
 *
 * Q1: the row names one replica. Who takes the session over changes the row
 *     first, and only with a poll above the last one that did.
 * Q2: what waited at the replica before is not lost: all of it follows from
 *     rows, and is said again from them.
 * Q3: a half ends the session only while the row names it: that replica, since
 *     the poll that brought the session there. A half that was left ends nothing,
 *     also where the session has come back meanwhile.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ConnectRequest, ConnectResponseSchema } from "@bowline/contract/agent";
import { type Clock, problem } from "@bowline/kernel";
import { watchSilence } from "@bowline/session";
import type { EnginePorts } from "../commands/index.ts";
import type { RequestFacts } from "../platform/context.ts";
import type { Dials } from "./dials.ts";
import type { Openings } from "./openings.ts";
import type { Ends } from "./ends.ts";
import type { Dispatcher } from "./dispatcher.ts";
import type { SessionClaims } from "./fetch.ts";
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
import { createMailbox, type Mailbox } from "./mailbox.ts";
import { moveSession, type OpenedSession } from "./open.ts";
import type { SessionRow } from "./poll-fence.ts";
import type { AccessTokens } from "./signing-keys.ts";
import { createStepTimes } from "./step-times.ts";
import { storable } from "./storable.ts";

export interface PollPorts {
  engine: () => EnginePorts;
  live: LiveSessions;
  dispatcher: Dispatcher;
  intake: Intake;
  dials: Pick<Dials, "working">;
  openings: Openings;
  ends: Ends;
  tokens: AccessTokens;
  clock: Clock;
  replicaId: string;
  heartbeatIntervalMs: number;
  silenceLimitMs: number;
}

/** A poll session that this replica holds. */
export interface Half {
  session: LiveSession;
  opened: OpenedSession;
  mailbox: Mailbox;
  /** Of the newest poll; 0: none came. */
  number: number;
  /** The agent said something. */
  heard(): void;
  /** Ends this half; the session goes on in another one. */
  leave(): void;
}

export interface Polls {
  /** Opens a session, as a stream's greeting does. */
  open(
    asserted: Asserted,
    request: Pick<RequestFacts, "remoteAddress" | "clientCertificate">,
    greeting: ConnectRequest,
  ): Promise<MessageInitShape<typeof ConnectResponseSchema>>;
  /** The half that is here and that the row names; undefined: another replica's. */
  here(claims: SessionClaims, row: SessionRow): Half | undefined;
  /** Brings a session here (Q1); `number` is the poll's, 0 with a Sync. Throws POLL_OUTDATED. */
  bring(claims: SessionClaims & { incarnation: number }, row: SessionRow, number: number): Promise<Half>;
  /** The session that a request came on, where its half is here. */
  of(claims: SessionClaims): Half | undefined;
  /** Resolves when the ends of sessions that are being recorded are recorded. */
  settled(): Promise<void>;
}

export function createPolls(ports: PollPorts): Polls {
  const halves = new Map<string, Half>();
  const endings = new Set<Promise<void>>();

  /** `since`: the poll that brought it. Only what is said again from rows, or in answer, is ever said to it (Q2). */
  function hold(agentId: string, opened: OpenedSession, phase: "syncing" | "serving", since: number): Half {
    const { sessionId, epoch, clusterId } = opened;
    const mailbox = createMailbox(ports.clock);
    const over = new AbortController();
    let leaving: LeaveReason | undefined;
    const leave = (): void => {
      over.abort();
      silence.stop();
      half.session.phase = "ended";
      mailbox.close();
      ports.live.remove(half.session);
      if (halves.get(agentId) === half) halves.delete(agentId);
    };
    const end = (reason: EndReason): void => {
      if (over.signal.aborted) return;
      leave();
      const why = leaving !== undefined && endsInOrder(reason) ? leaving : reason;
      ports.engine().metrics?.sessionEnded("POLL", why);
      const held = { by: ports.replicaId, since };
      const recorded = ports.ends
        .end({ agentId, epoch, reason: why, held }) // Q3
        .catch((error: unknown) => {
          // The database is away: the sweeper ends it, or the agent's next session does.
          ports.engine().log.warn({ error, agentId }, "the end of a session could not be recorded");
        })
        .finally(() => endings.delete(recorded));
      endings.add(recorded);
    };
    const silence = watchSilence({
      limitMs: ports.silenceLimitMs,
      clock: ports.clock,
      silent: () => end("HEARTBEAT_MISSED"),
    });
    const half: Half = {
      opened,
      mailbox,
      number: 0,
      leave,
      heard() {
        silence.heard();
        half.session.lastSeen = new Date();
      },
      session: {
        ...{ agentId, clusterId, sessionId, epoch, phase },
        transport: "POLL",
        heldBy: ports.replicaId,
        times: createStepTimes(ports.engine().metrics),
        get queued() {
          return mailbox.length;
        },
        openedAt: ports.clock.monotonicMs(),
        takes: "everything",
        pushedRemovals: new Set(),
        lastSeen: new Date(),
        send(message) {
          if (over.signal.aborted || mailbox.put(message)) return;
          ports.engine().metrics?.dropped("outbox");
          end("NOT_READING");
        },
        leave(why, spreadMs) {
          leaving ??= why;
          half.session.send({ message: { case: "drain", value: { spreadMs } } });
        },
        close(reason, last = lastWord(reason)) {
          if (last !== undefined && !over.signal.aborted) mailbox.put(last);
          end(reason);
        },
      },
    };
    const older = halves.get(agentId);
    if (older?.session.epoch === epoch) older.leave(); // this session, before it went elsewhere and came back
    halves.set(agentId, half);
    ports.live.add(half.session);
    return half;
  }

  const of: Polls["of"] = ({ agentId, sessionId }) => {
    const half = halves.get(agentId);
    return half?.session.sessionId === sessionId ? half : undefined;
  };

  return {
    of,
    async open(asserted, { remoteAddress, clientCertificate = "" }, greeting) {
      const { replicaId } = ports;
      const { agentId } = asserted;
      const facts = { ...asserted, replicaId, remoteAddress, clientCertificate, transport: "POLL" } as const;
      const opened = await ports.dials.working(() => ports.openings.open({ ...facts, greeting: storable(greeting) }));
      ports.intake.seen(agentId, greeting.capacity);
      hold(agentId, opened, "syncing", 0);
      ports.engine().metrics?.sessionOpened("POLL");
      return welcome(ports, opened, agentId);
    },
    here: (claims, row) => (row.replicaId === ports.replicaId ? of(claims) : undefined),
    async bring(claims, row, number) {
      const { agentId, sessionId, epoch, incarnation } = claims;
      const moved = await moveSession(ports.engine(), claims, ports.replicaId, number);
      if (!moved) throw problem("POLL_OUTDATED", "A newer poll holds this session.");
      const { clusterId, journalWhole, state } = row;
      const serving = state === "SERVING";
      const half = hold(
        agentId,
        { sessionId, epoch, clusterId, incarnation, journalWhole, tellsAll: false }, // the greeting went elsewhere
        serving ? "serving" : "syncing",
        number,
      );
      // Who held it looks at the row, and lets go.
      if (row.replicaId !== ports.replicaId) ports.engine().signals.close(agentId, "REPLICA_LOST", row.replicaId);
      if (serving) {
        await ports.dispatcher.tell([agentId]);
        ports.dispatcher.wake([agentId]);
      }
      return half;
    },
    async settled() {
      await Promise.all(endings);
    },
  };
}
