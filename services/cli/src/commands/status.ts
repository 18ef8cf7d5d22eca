/** `bowline status`: one look at the installation: who am I, what is there, what is not as it should be. */
import { AgentSchema, Agent_Connectivity, Agent_State } from "@bowline/contract/agents";
import { roleName } from "@bowline/contract";
import { Cluster_State, ClusterSchema } from "@bowline/contract/clusters";
import type { Cluster } from "@bowline/contract/clusters";
import { MeSchema } from "@bowline/contract/identity";
import { InstallationSchema } from "@bowline/contract/installation";
import { ProductPublish_State, ProductPublishSchema } from "@bowline/contract/products";
import type { ProductPublish } from "@bowline/contract/products";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Command } from "commander";
import { stateText } from "./agent-show.ts";
import { connected, verb } from "../cli.ts";
import type { Cli, ConnectionFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { hint, json, printJson } from "../output.ts";
import { publishTitle } from "../publish-wait.ts";
import { columns, enumName, plain, when } from "../text.ts";

/** What one look takes in; the lists have the rest. */
const pageSize = 100;
const over: readonly ProductPublish_State[] = [ProductPublish_State.SUPERSEDED, ProductPublish_State.UNPUBLISHED];

export function statusCommand(cli: Cli, program: Command): void {
  connected(
    verb(program, {
      usage: "status",
      summary: "Show the server, who you are, clusters, agents that are away, publishes",
      examples: ["status", "status -o json"],
    }),
  ).action(async (flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const me = await api.auth.getMe({});
    // A role may not see all of these; what it may not see is left out.
    const [installation, clusters, agents, publishes] = await Promise.all([
      allowed(api.installation.getInstallation({})),
      allowed(api.clusters.listClusters({ pageSize }).then((page) => page.clusters)),
      allowed(api.agents.listAgents({ pageSize }).then((page) => page.agents)),
      allowed(api.publishes.listProductPublishes({ pageSize }).then((page) => page.productPublishes)),
    ]);
    if (flags.output === "json") {
      return printJson(cli, {
        url: api.target.url,
        me: json(MeSchema, me),
        installation: installation === undefined ? undefined : json(InstallationSchema, installation),
        clusters: clusters?.map((item) => json(ClusterSchema, item)),
        agents: agents?.map((item) => json(AgentSchema, item)),
        productPublishes: publishes?.map((item) => json(ProductPublishSchema, item)),
      });
    }
    if (flags.quiet === true) return cli.print(me.installationId);

    cli.print(plain(`${api.target.url}   Bowline ${me.serverVersion}, ${api.target.from}`));
    cli.print(
      plain(
        `you are ${me.name} (${roleName(me.role) ?? "no role"})${me.organisation === "" ? "" : ` of ${me.organisation}`}`,
      ),
    );
    if (me.degraded.includes("redis")) {
      cli.print(
        "degraded: the server's Redis is away; wake-ups and presence go through its database, everything works",
      );
    } else if (me.degraded.length > 0) cli.print(plain(`degraded: without ${me.degraded.join(", ")}`));
    if (installation?.dispatchHeld === true) {
      cli.print(`DISPATCH IS HELD since ${when(installation.dispatchHeldAt)}: the database was restored.`);
      hint(cli, flags, "Look at the agents, then let work go on:", "server confirm-restore");
    }
    if ((installation?.agentsAwaitingDecision ?? 0) > 0)
      hint(cli, flags, `${installation?.agentsAwaitingDecision} agents await a decision:`, "agent list");
    section(cli, "clusters", clusters?.map(clusterRow), "none yet");
    const away = agents?.filter(
      (agent) =>
        agent.connectivity !== Agent_Connectivity.ONLINE ||
        agent.state !== Agent_State.ENROLLED ||
        agent.runtimeProblem !== "" ||
        agent.cordoned,
    );
    section(
      cli,
      `agents, ${agents?.length ?? 0} in all; not as they should be`,
      away?.map((agent) => [agent.name, agent.cluster, stateText(agent)]),
      "none: all are online",
    );
    section(cli, "publishes", publishes?.filter(({ state }) => !over.includes(state)).map(publishRow), "none yet");
    if (clusters?.length === 0) hint(cli, flags, "\nMake a first cluster:", "cluster create local --runtime local");
  });
}

async function allowed<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof ConnectError && error.code === Code.PermissionDenied) return undefined;
    throw error;
  }
}

function section(cli: Cli, title: string, rows: string[][] | undefined, none: string): void {
  if (rows === undefined) return;
  cli.print(`\n${title}:`);
  for (const line of rows.length === 0 ? [none] : columns(rows.map((row) => row.map(plain)))) cli.print(`  ${line}`);
}

function clusterRow(cluster: Cluster): string[] {
  const state = enumName(Cluster_State, cluster.state).toLowerCase().replaceAll("_", " ");
  return [cluster.name, cluster.runtime, state, `${cluster.agentsOnline} of ${cluster.agentsTotal} agents online`];
}

function publishRow(publish: ProductPublish): string[] {
  const why = publish.message || publish.reason;
  const state =
    enumName(ProductPublish_State, publish.state) +
    (publish.conditions.length === 0 ? "" : ` (${publish.conditions.join(", ")})`);
  return [publishTitle(publish), state, why === "" ? when(publish.createdAt) : why];
}
