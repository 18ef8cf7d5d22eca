/** `bowline agent`: the processes that dial out. `join` starts one here. */
import {
  Agent_Connectivity as Connectivity,
  Agent_State,
  Agent_Transport,
  AgentSchema,
  ListAgentsResponseSchema,
} from "@bowline/contract/agents";
import type { Agent } from "@bowline/contract/agents";
import type { Command } from "commander";
import { doctorCommand, rotateKeyCommand } from "./agent-host.ts";
import { bindCertificateCommand } from "./agent-certificate.ts";
import { installCommand } from "./agent-install.ts";
import { joinCommand } from "./agent-join.ts";
import { uninstallCommand } from "./agent-uninstall.ts";
import { acceptCommand, decisionWords, showDisputes } from "./agent-accept.ts";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { hint, printDone, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { clockTime, enumName, labels, nothing, since, when } from "../text.ts";

export function agentCommand(cli: Cli): Command {
  const agent = noun("agent", "Agents: the processes in your clusters that dial out");
  joinCommand(cli, agent);
  installCommand(cli, agent);
  uninstallCommand(cli, agent);
  doctorCommand(cli, agent);
  rotateKeyCommand(cli, agent);
  bindCertificateCommand(cli, agent);

  connected(
    listed(
      verb(agent, {
        usage: "list",
        summary: "List agents",
        examples: ["agent list", "agent list --cluster factory-7 -o json"],
      }),
    ).option("--cluster <cluster>", "only of this cluster"),
  ).action(async (flags: ListFlags & { cluster?: string }) => {
    const api = await openApi(cli, flags);
    const response = await allPages(
      flags.limit,
      (page) => api.agents.listAgents({ ...page, clusterId: flags.cluster }),
      (page) => page.agents,
    );
    printList(cli, flags, {
      schema: ListAgentsResponseSchema,
      response,
      rows: response.agents,
      id: (row) => row.id,
      columns: [
        ["NAME", (row) => row.name],
        ["CLUSTER", (row) => row.cluster],
        ["STATE", stateText],
        ["LOAD", loadText],
        ["RUNS", (row) => String(row.running)],
        ["VERSION", (row) => row.version || nothing],
      ],
      none: `No agents. Let one join: ${cli.settings.invocation} token create --cluster <name>`,
    });
    if (response.agents.some((row) => row.degraded))
      hint(cli, flags, "Presence is not reachable: states come from the database and may be old.");
    const asks = response.agents.find((row) => row.state === Agent_State.AWAITING_DECISION);
    if (asks !== undefined) hint(cli, flags, "Has more than the server's database:", `agent get ${asks.name}`);
    const claimed = response.agents.find((row) => row.state === Agent_State.CONFLICT);
    if (claimed !== undefined) hint(cli, flags, "Two claim to be one agent:", `agent get ${claimed.name}`);
    sayMore(cli, flags, response, flags.limit);
  });

  connected(verb(agent, { usage: "get <agent>", summary: "Show one agent", examples: ["agent get press-1"] })).action(
    async (id: string, flags: ConnectionFlags) => {
      const api = await openApi(cli, flags);
      show(cli, flags, await api.agents.getAgent({ id }));
    },
  );

  connected(
    verb(agent, {
      usage: "cordon <agent>",
      summary: "Give an agent nothing new; what is there still converges",
      examples: ["agent cordon press-1"],
    }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const changed = await api.agents.cordonAgent({ id });
    printDone(cli, flags, {
      schema: AgentSchema,
      message: changed,
      id: changed.id,
      text: `Agent ${changed.name} is cordoned.`,
    });
    hint(cli, flags, "To use it again:", `agent uncordon ${changed.name}`);
  });

  connected(
    verb(agent, {
      usage: "uncordon <agent>",
      summary: "Let placement use an agent again",
      examples: ["agent uncordon press-1"],
    }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const changed = await api.agents.uncordonAgent({ id });
    printDone(cli, flags, {
      schema: AgentSchema,
      message: changed,
      id: changed.id,
      text: `Agent ${changed.name} takes new work.`,
    });
  });

  connected(
    verb(agent, {
      usage: "release <agent>",
      summary: "End an agent's conflict; the next process that connects is the agent",
      examples: ["agent release press-3", "agent release press-3 --accept-runtime-identity"],
    }).option("--accept-runtime-identity", "it belongs to the runtime that it came with last, from now on"),
  ).action(async (id: string, flags: ConnectionFlags & { acceptRuntimeIdentity?: boolean }) => {
    const api = await openApi(cli, flags);
    const changed = await api.agents.releaseAgent({ id, acceptRuntimeIdentity: flags.acceptRuntimeIdentity });
    printDone(cli, flags, {
      schema: AgentSchema,
      message: changed,
      id: changed.id,
      text: `Agent ${changed.name} may connect.`,
    });
  });

  acceptCommand(cli, agent);

  connected(
    verb(agent, {
      usage: "revoke <agent>",
      summary: "End an agent's session and refuse its key for good",
      examples: ["agent revoke press-3 --yes"],
    }).option("-y, --yes", "do not ask"),
  ).action(async (id: string, flags: ConnectionFlags & { yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.agents.getAgent({ id });
    await confirm(
      cli,
      flags,
      `refuse agent ${found.name} of cluster ${found.cluster} for good; what it runs (${found.running}) stays there, unattended`,
    );
    const changed = await api.agents.revokeAgent({ id: found.id });
    printDone(cli, flags, {
      schema: AgentSchema,
      message: changed,
      id: changed.id,
      text: `Agent ${changed.name} is revoked.`,
    });
    hint(cli, flags, "To forget it:", `agent delete ${changed.name}`);
  });

  connected(
    verb(agent, {
      usage: "retire <agent>",
      summary: "Settle what an agent owes whose host is gone for good",
      examples: ["agent retire press-3 --yes"],
    })
      .option("-y, --yes", "do not ask")
      .option("--force", "also while it is connected; what it runs stays there, unattended"),
  ).action(async (id: string, flags: ConnectionFlags & { yes?: boolean; force?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.agents.getAgent({ id });
    await confirm(
      cli,
      flags,
      `retire agent ${found.name} of cluster ${found.cluster} for good; its commands end, and its deployments count as gone`,
    );
    const changed = await api.agents.retireAgent({ id: found.id, force: flags.force });
    printDone(cli, flags, {
      schema: AgentSchema,
      message: changed,
      id: changed.id,
      text: `Agent ${changed.name} is retired.`,
    });
    hint(cli, flags, "To forget it:", `agent delete ${changed.name}`);
  });

  connected(
    verb(agent, {
      usage: "delete <agent>",
      summary: "Forget a revoked or retired agent that owes nothing",
      examples: ["agent delete press-3 --yes"],
    }).option("-y, --yes", "do not ask"),
  ).action(async (id: string, flags: ConnectionFlags & { yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.agents.getAgent({ id });
    await confirm(cli, flags, `delete agent ${found.name} of cluster ${found.cluster}`);
    await api.agents.deleteAgent({ id: found.id, etag: found.etag });
    printDone(cli, flags, {
      schema: AgentSchema,
      message: found,
      id: found.id,
      text: `Agent ${found.name} is deleted.`,
    });
  });
  return agent;
}

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

function loadText(agent: Agent): string {
  if (agent.connectivity === Connectivity.OFFLINE) return nothing;
  if (agent.capacityLimit > 0) return `${agent.running}/${agent.capacityLimit}`;
  return `${Math.round(agent.loadMillis / 10)} %`;
}

function show(cli: Cli, flags: ConnectionFlags, agent: Agent): void {
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
      ["can", agent.capabilities.join(", ")],
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
