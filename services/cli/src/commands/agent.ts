/** `bowline agent`: the processes that dial out. `join` starts one here. */
import { Agent_State, AgentSchema, ListAgentsResponseSchema } from "@bowline/contract/agents";
import type { Command } from "commander";
import { containersCommand } from "./agent-containers.ts";
import { doctorCommand, rotateKeyCommand } from "./agent-host.ts";
import { bindCertificateCommand } from "./agent-certificate.ts";
import { installCommand } from "./agent-install.ts";
import { joinCommand } from "./agent-join.ts";
import { uninstallCommand } from "./agent-uninstall.ts";
import { acceptCommand } from "./agent-accept.ts";
import { loadText, showAgent, stateText } from "./agent-show.ts";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { hint, printDone, printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { nothing } from "../text.ts";

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
      showAgent(cli, flags, await api.agents.getAgent({ id }));
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

  containersCommand(cli, agent);

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
