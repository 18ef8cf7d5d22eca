/** `bowline agent accept`: whose history goes on, where an agent has another than the server's database. */
import { AcceptAgentRequest_Side as Side, AgentSchema, Agent_State } from "@bowline/contract/agents";
import type { Agent, Dispute } from "@bowline/contract/agents";
import { type Command, Option } from "commander";
import { connected, verb } from "../cli.ts";
import type { Cli, ConnectionFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { hint, printDone } from "../output.ts";
import { columns, plain } from "../text.ts";

export const decisionWords: Record<string, string> = {
  INCARNATION_AHEAD: "it has spoken to a later history of the database than this one",
  DEPLOYMENTS_DIFFER: "it has deployments of another history than the database's",
};

const whyWords: Record<string, string> = {
  GENERATION_AHEAD: "newer at the agent",
  DIGEST_DIFFERS: "the same number, another spec",
  UNKNOWN_DEPLOYMENT: "unknown to the server",
};

export function acceptCommand(cli: Cli, agent: Command): void {
  connected(
    verb(agent, {
      usage: "accept <agent>",
      summary: "Decide whose history goes on, after the server's database went back",
      examples: ["agent accept press-1 --side server --yes", "agent accept press-1 --side agent"],
      more:
        "server: what the server wants is sent anew, above the agent's generations; what the server does not know stays\n" +
        "        there as strays.\n" +
        "agent:  what runs there stays, and is held until it is published again.\n" +
        "Either way nothing is removed that the server does not already want removed.",
    })
      .addOption(
        new Option("--side <side>", "whose history goes on").choices(["agent", "server"]).makeOptionMandatory(true),
      )
      .option("-y, --yes", "do not ask"),
  ).action(async (id: string, flags: ConnectionFlags & { side: "agent" | "server"; yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.agents.getAgent({ id });
    const many = `${found.disputes.length} deployments of agent ${found.name}`;
    await confirm(
      cli,
      flags,
      flags.side === "server"
        ? `send what the server wants to ${many}, over what runs there`
        : `keep what runs of ${many}, instead of what the server wants`,
    );
    const side = flags.side === "server" ? Side.SERVER : Side.AGENT;
    const changed = await api.agents.acceptAgent({ id: found.id, side });
    printDone(cli, flags, {
      schema: AgentSchema,
      message: changed,
      id: changed.id,
      text: `Agent ${changed.name} goes on with the ${flags.side}'s history.`,
    });
    if (flags.side === "agent" && found.disputes.length > 0)
      hint(cli, flags, "Publish again what it serves; until then:", "deployment list");
  });
}

/** What an agent that awaits a decision has, beside what the server has. */
export function showDisputes(cli: Cli, flags: ConnectionFlags, agent: Agent): void {
  if (agent.state !== Agent_State.AWAITING_DECISION || flags.output === "json" || flags.quiet === true) return;
  if (agent.disputes.length > 0) {
    cli.print("\nwhat differs:");
    const head = ["DEPLOYMENT", "AGENT HAS", "SERVER HAS", "", ""];
    for (const line of columns([head, ...agent.disputes.map(row)])) cli.print(`  ${line}`);
  }
  hint(cli, flags, "What the server wants goes over what runs there:", `agent accept ${agent.name} --side server`);
  hint(cli, flags, "What runs there stays:", `agent accept ${agent.name} --side agent`);
}

function row(dispute: Dispute): string[] {
  const { deploymentId, agentGeneration, agentDigest, serverGeneration, serverDigest, why, kind, runs } = dispute;
  return [
    deploymentId,
    generation(agentGeneration, agentDigest),
    serverGeneration === 0 ? "nothing" : generation(serverGeneration, serverDigest),
    whyWords[why] ?? why,
    [kind, runs ? "" : "does not run"].filter((text) => text !== "").join(", "),
  ].map(plain);
}

function generation(number: number, digest: string): string {
  return `generation ${number} (${digest.slice(0, 8) || "?"})`;
}
