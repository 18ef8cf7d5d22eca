/** What all replicas of a history share, and what the checker hears of. */
import type { CommandEvent, Verdict } from "../../services/control-plane/src/commands/index.ts";
import type { AgentMessage, ResultAck_Disposition } from "@bowline/contract/agent";
import type { Locked, Rules } from "./engine.ts";
import type { Effect } from "./host.ts";
import type { Network } from "./network.ts";
import type { Random } from "./random.ts";
import type { Hints } from "./hints.ts";
import type { Server } from "./server.ts";
import type { Store, Tx } from "./store.ts";
import type { Enqueued, Ids, Wish } from "./wishes.ts";
import type { World } from "./world.ts";

/** What is checked while it happens. */
export interface Watcher {
  moved(tx: Tx, before: Locked, event: CommandEvent, verdict: Extract<Verdict, { kind: "moved" }>): void;
  acknowledged(commandId: string, attempt: number, disposition: ResultAck_Disposition): void;
  accept(wish: Wish, enqueued: Enqueued): void;
  effect(effect: Effect): void;
  /** A BLOCKED command had nothing ahead of it. */
  orphan(): void;
}

export interface Cluster {
  world: World;
  random: Random;
  store: Store;
  network: Network;
  rules: Rules;
  ids: Ids & { session(): string };
  watcher: Watcher;
  replicas: Server[];
  hints: Hints;
  /** What an agent with a defect says instead. */
  tamper: (agentId: string, message: AgentMessage["message"]) => AgentMessage["message"];
}
