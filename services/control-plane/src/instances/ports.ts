/** What instances need of others. */
import type { ExecRequest } from "@bowline/contract/instances";
import type { Clock } from "@bowline/kernel";
import type { Principal } from "../platform/context.ts";
import type { Events } from "../platform/events.ts";
import type { Db } from "../platform/transactions.ts";
import type { Tunnels } from "../tunnels/index.ts";

/** One instance and where it is. */
export interface Place {
  agentId: string;
  agent: string;
  deploymentId: string;
  /** Whose it is; empty: the installation's. */
  organisationId: string;
  workload: string;
  /** As the caller calls it: the service of the stack, or the workload. */
  service: string;
  index: number;
  phase: string;
}

export interface InstancePorts {
  db: Db;
  clock: Clock;
  events: () => Events;
  tunnels: Pick<Tunnels, "open">;
  /** What was observed of a stack, by id or name. Throws NOT_FOUND. */
  instancesOfStack(principal: Principal, stack: string): Promise<Place[]>;
  /** The same of a deployment, by id. */
  instancesOfDeployment(principal: Principal, deploymentId: string): Promise<Place[]>;
  /** Throws INVALID_ARGUMENT with what the contract's rules say. */
  check(message: ExecRequest): void;
}
