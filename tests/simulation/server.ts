/** What others see of a replica, and the sessions that it holds. */
import type { create } from "@bufbuild/protobuf";
import type { ServerMessageSchema } from "@bowline/contract/agent";
import type { Engine } from "./engine.ts";
import type { Hint } from "./hints.ts";
import type { Dialled } from "./transport.ts";

/** After this much silence a session is closed. */
export const silenceLimitMs = 45_000;

export type Outgoing = NonNullable<Parameters<typeof create<typeof ServerMessageSchema>>[1]>["message"];

export interface Live {
  agentId: string;
  epoch: number;
  phase: "syncing" | "serving" | "ended";
  takes: "everything" | "removals" | "nothing";
  pushedRemovals: Set<string>;
  cancelsSent: Set<string>;
  heardAt: number;
  send(message: Outgoing): void;
  close(reason: string, last?: Outgoing): void;
}

export interface Server extends Dialled {
  readonly id: string;
  readonly engine: Engine;
  readonly live: Map<string, Live>;
  hear(hint: Hint): void;
  /** Sessions that were ended or superseded elsewhere are let go. */
  endSuperseded(agentIds?: readonly string[]): Promise<void>;
  /** Pushes everything of a session that has no receipt yet. */
  pushUnreceipted(agentId: string, epoch: number): Promise<void>;
}
