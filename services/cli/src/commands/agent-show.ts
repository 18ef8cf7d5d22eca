/** An agent as the CLI tells it: in one line, and whole. */
import {
  type Agent,
  Agent_Connectivity as Connectivity,
  Agent_State,
  Agent_Transport,
  AgentSchema,
} from "@bowline/contract/agents";
import { denialsOf } from "@bowline/kernel";
import type { Cli, ConnectionFlags } from "../cli.ts";
import { hint, printOne } from "../output.ts";
import { clockTime, enumName, labels, nothing, since, when } from "../text.ts";
import { decisionWords, showDisputes } from "./agent-accept.ts";

const offlineWords: Record<string, string> = {
  NEVER_CONNECTED: "never connected",
  CLOSED_CLEANLY: "stopped by itself",
  HEARTBEAT_MISSED: "missed heartbeats",
  CONNECTION_LOST: "connection lost",
  REPLICA_LOST: "its replica of the server was lost",
  REVOKED: "revoked",
  RETIRED: "retired",
  REKEYED: "given new keys",
  CONFLICT: "identity in conflict",
  REPLICA_DRAINING: "its replica of the server stopped",
  SESSION_MOVED: "asked to connect again after a session's life",
  SUPERSEDED: "a newer session took over",
  RESTORED: "the database was restored",
  DECIDED: "an operator decided; it comes back",
};

const conflictWords: Record<string, string> = {
  TWO_PROCESSES: "two processes have its identity; both are refused",
  OTHER_RUNTIME: "it came with another runtime than the one that enrolled",
};

const transportWords: Record<number, string> = {
  [Agent_Transport.STREAM]: "stream",
  [Agent_Transport.POLL]: "polling, since no stream passes or it is told to",
};

/** Life and connectivity in one line: `offline since 08:40, missed heartbeats`. */
export function stateText(agent: Agent): string {
  const extra = [agent.cordoned ? "cordoned" : "", agent.runtimeProblem].filter((text) => text !== "");
  if (agent.state !== Agent_State.ENROLLED) {
    extra.unshift(enumName(Agent_State, agent.state).toLowerCase().replaceAll("_", " "));
    if (agent.state === Agent_State.REVOKED || agent.state === Agent_State.RETIRED) return extra.join(", ");
  }
  return [connectivityText(agent), ...extra].join(", ");
}

function connectivityText(agent: Agent): string {
  switch (agent.connectivity) {
    case Connectivity.ONLINE:
      return `online, ${since(agent.connectivitySince)}`;
    case Connectivity.LATE:
      return `late, last heard ${since(agent.lastSeenAt)} ago`;
    default: {
      const why = offlineWords[agent.offlineReason] ?? agent.offlineReason.toLowerCase().replaceAll("_", " ");
      const from = agent.connectivitySince === undefined ? "" : ` since ${clockTime(agent.connectivitySince)}`;
      return `offline${from}${why === "" ? "" : `, ${why}`}`;
    }
  }
}

export function loadText(agent: Agent): string {
  if (agent.connectivity === Connectivity.OFFLINE) return nothing;
  if (agent.capacityLimit > 0) return `${agent.running}/${agent.capacityLimit}`;
  return `${Math.round(agent.loadMillis / 10)} %`;
}

export function showAgent(cli: Cli, flags: ConnectionFlags, agent: Agent): void {
  printOne(cli, flags, {
    schema: AgentSchema,
    message: agent,
    id: agent.id,
    title: `${agent.name} of ${agent.cluster}`,
    facts: [
      ["id", agent.id],
      ["state", stateText(agent)],
      ["host", agent.hostname],
      ["address", agent.remoteAddress],
      ["transport", transportWords[agent.transport] ?? ""],
      ["runtime", `${agent.runtime} ${agent.runtimeVersion}`.trim()],
      ["runs", agent.capacityLimit > 0 ? `${agent.running} of at most ${agent.capacityLimit}` : String(agent.running)],
      ["load", agent.connectivity === Connectivity.OFFLINE ? "" : `${Math.round(agent.loadMillis / 10)} % per core`],
      ["labels", labels(agent.labels)],
      ["can", agent.capabilities.filter((name) => !name.startsWith("denies/")).join(", ")],
      ["host denies", [...denialsOf(agent.capabilities)].join(", ")],
      ["version", agent.version],
      ["last heard", when(agent.lastSeenAt)],
      ["enrolled", when(agent.createdAt)],
      ["key", agent.keyThumbprint],
      ["certificate", agent.clientCertificate],
      ["conflict", conflictWords[agent.conflict] ?? agent.conflict],
      ["came with", agent.conflictRuntimeIdentity],
      ["decision", decisionWords[agent.decision] ?? agent.decision],
      ...agent.strays.map((stray): [string, string] => [
        "stray",
        `${stray.deploymentId}, generation ${stray.generation}: ${stray.instances.join("; ")}`,
      ]),
    ],
  });
  showDisputes(cli, flags, agent);
  if (agent.state === Agent_State.CONFLICT) {
    const accept = agent.conflict === "OTHER_RUNTIME" ? " --accept-runtime-identity" : "";
    hint(
      cli,
      flags,
      accept === "" ? "Stop one of the two, then:" : "If it has moved there, and not been copied:",
      `agent release ${agent.name}${accept}`,
    );
    hint(cli, flags, "If you don't know the other:", `agent revoke ${agent.name}`);
  }
  if (agent.degraded) hint(cli, flags, "Presence is not reachable: the state comes from the database and may be old.");
}
