/** The sessions that this replica holds now. Rows decide; this is where their streams and polls are. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ServerMessageSchema } from "@bowline/contract/agent";
import type { StepTimes } from "./step-times.ts";

export type Outgoing = MessageInitShape<typeof ServerMessageSchema>;

/** Why a session ended; stored, and shown as the agent's offline reason. */
export type EndReason =
  | "CLOSED_CLEANLY"
  | "CONNECTION_LOST"
  | "HEARTBEAT_MISSED"
  | "SUPERSEDED"
  | "REVOKED"
  | "RETIRED"
  | "REKEYED"
  | "CONFLICT"
  | "REPLICA_DRAINING"
  | "SESSION_MOVED"
  | "REPLICA_LOST"
  | "NOT_READING"
  | "PROTOCOL_VIOLATION"
  | "FLOODING"
  | "CANCEL_UNANSWERED"
  | "DECIDED"
  | "RESTORED"
  | "NO_RECEIPT";

/** How a session is carried; stored, and shown with the agent. */
export type SessionTransport = "STREAM" | "POLL";

export interface LiveSession {
  readonly agentId: string;
  readonly clusterId: string;
  /** How it is carried. */
  readonly transport: SessionTransport;
  /** The replica that its row names while it is here: of a poll session, which moves. */
  readonly heldBy?: string;
  readonly sessionId: string;
  readonly epoch: number;
  readonly openedAt: number;
  /** SYNCING until the last Sync page is reconciled; commands are claimed only for SERVING. */
  phase: "syncing" | "serving" | "ended";
  /**
   * What is claimed for it. After NOT_NOW only removals and stops, until a
   * heartbeat tells places free; after NOT_NOW for one of those nothing, until
   * the next heartbeat: else it would be claimed and given back as fast as both
   * ends can.
   */
  takes: "everything" | "removals" | "nothing";
  /** Removals and stops that were pushed and have no receipt yet. */
  readonly pushedRemovals: Set<string>;
  /** When its commands took which step. */
  readonly times?: StepTimes;
  /** Messages that wait to be sent to it. */
  readonly queued: number;
  /** Wall time of the last message. */
  lastSeen: Date;
  send(message: Outgoing): void;
  /** Ends the session with a reason; what is queued still goes out. */
  close(reason: EndReason, last?: Outgoing): void;
  /** Asks the agent to connect again within `spreadMs`; until it does, the session serves. `why` is the reason of an end in order. */
  leave(why: LeaveReason, spreadMs: number): void;
}

/** What an agent is told at such an end. After an operator's decision it comes back at once: somebody looks on. */
export function lastWord(why: EndReason): Outgoing | undefined {
  return why === "DECIDED" ? { message: { case: "drain", value: { spreadMs: 0 } } } : undefined;
}

/** Why an agent is asked to connect again. */
export type LeaveReason = Extract<EndReason, "REPLICA_DRAINING" | "SESSION_MOVED">;

/** Ends that an agent makes which was asked to connect again: then what it was asked for is why. */
export function endsInOrder(reason: EndReason): boolean {
  return reason === "CLOSED_CLEANLY" || reason === "CONNECTION_LOST";
}

export interface LiveSessions {
  of(agentId: string): LiveSession | undefined;
  all(): Iterable<LiveSession>;
  count(): number;
  /**
   * Puts a session in place of an older one of the same agent, which is closed as superseded. That may be the one that
   * is added: the answer to its opening can come later than that to the newer one's.
   */
  add(session: LiveSession): void;
  /** Takes it out, unless a newer one has its place. `recorded`: its end is in the database, or cannot be. */
  remove(session: LiveSession, recorded?: Promise<void>): void;
  /** Resolves when those ends are recorded. */
  recorded(): Promise<void>;
}

/** `changed` is told of each session that comes and goes. */
export function createLiveSessions(changed: (session: LiveSession, open: boolean) => void): LiveSessions {
  const byAgent = new Map<string, LiveSession>();
  const ending = new Set<Promise<void>>();
  return {
    of: (agentId) => byAgent.get(agentId),
    all: () => byAgent.values(),
    count: () => byAgent.size,
    add(session) {
      const other = byAgent.get(session.agentId);
      changed(session, true);
      const [newer, older] = other !== undefined && other.epoch > session.epoch ? [other, session] : [session, other];
      byAgent.set(session.agentId, newer);
      if (older !== undefined && older.epoch < newer.epoch) {
        older.close("SUPERSEDED", { message: { case: "superseded", value: { epoch: newer.epoch } } });
      }
    },
    remove(session, recorded) {
      if (byAgent.get(session.agentId) === session) byAgent.delete(session.agentId);
      changed(session, false);
      if (recorded === undefined) return;
      ending.add(recorded);
      void recorded.finally(() => ending.delete(recorded));
    },
    async recorded() {
      await Promise.all(ending);
    },
  };
}
