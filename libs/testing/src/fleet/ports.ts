/** What the simulated agents of a process share, and what is told of each. */
import type { Socket } from "node:net";
import type { DeployResult_Outcome, ResultAck_Disposition as Ack } from "@bowline/contract/agent";
import type { Wheel } from "./wheel.ts";

/** What all agents of a process share. */
export interface AgentWorld {
  wheel: Wheel;
  random: () => number;
  /** Connections that went half-open; whoever ends the world destroys them. */
  halfOpen: Set<Socket>;
}

export type AgentPhase = "waiting" | "dialling" | "greeting" | "syncing" | "serving" | "stopped";

/** What is told of an agent while it goes. */
export interface AgentNotes {
  phase(phase: AgentPhase): void;
  /** A command came down. */
  pushed(): void;
  /** An attempt begins to be carried out. */
  effect(commandId: string, attempt: number): void;
  carried(outcome: DeployResult_Outcome): void;
  /** The server said what became of its result. */
  answered(commandId: string, attempt: number, disposition: Ack): void;
  /** A heartbeat was answered after this long. */
  beat(ms: number): void;
  /** Why a dial was refused or a session ended, other than in order; `fetch: …` where a fetch failed. */
  trouble(reason: string): void;
}
