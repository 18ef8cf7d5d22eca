/** `bowline deployment`: what is desired at an agent, and what is observed. */
import { randomUUID } from "node:crypto";
import {
  Deployment_Desired,
  DeploymentStatusSchema,
  ListDeploymentsResponseSchema,
} from "@bowline/contract/deployments";
import type { DeploymentStatus, ObservedInstance } from "@bowline/contract/deployments";
import type { Command } from "commander";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { hint, printDone, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { enumName, when } from "../text.ts";

export function deploymentCommand(cli: Cli): Command {
  const deployment = noun("deployment", "Deployments: what is desired at an agent, and what is observed");

  connected(
    listed(
      verb(deployment, {
        usage: "list",
        summary: "List deployments, newest first",
        examples: ["deployment list --agent press-1"],
      })
        .option("--cluster <cluster>", "only of this cluster")
        .option("--agent <agent>", "only of this agent")
        .option("--include-absent", "also those that are removed"),
    ),
  ).action(async (flags: ListFlags & { cluster?: string; agent?: string; includeAbsent?: boolean }) => {
    const api = await openApi(cli, flags);
    const filter = { clusterId: flags.cluster, agentId: flags.agent, includeAbsent: flags.includeAbsent };
    const response = await allPages(
      flags.limit,
      (page) => api.deployments.listDeployments({ ...page, ...filter }),
      (page) => page.deployments,
    );
    printList(cli, flags, {
      schema: ListDeploymentsResponseSchema,
      response,
      rows: response.deployments,
      id: (row) => row.id,
      columns: [
        ["AGENT", (row) => row.agent],
        ["KIND", (row) => row.kind],
        ["DESIRED", (row) => enumName(Deployment_Desired, row.desired)],
        ["GENERATION", generationText],
        ["CONDITION", conditionText],
        ["CHANGED", (row) => when(row.updatedAt)],
        ["ID", (row) => row.id],
      ],
      none: "No deployments.",
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    verb(deployment, {
      usage: "get <id>",
      summary: "Show one deployment: desired, observed, drift",
      examples: ["deployment get deployment_01k3…", "deployment get deployment_01k3… -o json"],
    }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const found = await api.deployments.getDeployment({ id });
    printOne(cli, flags, {
      schema: DeploymentStatusSchema,
      message: found,
      id: found.id,
      title: `${found.kind} at ${found.agent}`,
      facts: [
        ["id", found.id],
        ["desired", enumName(Deployment_Desired, found.desired)],
        ["generation", generationText(found)],
        ["condition", conditionText(found)],
        ["owner", found.ownerId],
        ...found.instances.map((instance): [string, string] => [
          `${instance.workload} ${instance.index}`,
          instanceText(instance),
        ]),
        ["made", when(found.createdAt)],
        ["changed", when(found.updatedAt)],
      ],
    });
  });

  connected(
    verb(deployment, {
      usage: "reconcile <id>",
      summary: "Converge a deployment again to the same wish; ends a hold",
      examples: ["deployment reconcile deployment_01k3…"],
    }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const found = await api.deployments.reconcileDeployment({ id, requestId: randomUUID() });
    printDone(cli, flags, {
      schema: DeploymentStatusSchema,
      message: found,
      id: found.id,
      text: `${found.id} at ${found.agent}: generation ${found.generation} is on its way.`,
    });
    hint(cli, flags, "Its commands:", `command list --deployment ${found.id}`);
  });
  return deployment;
}

function generationText(deployment: DeploymentStatus): string {
  const { generation, observedGeneration } = deployment;
  return generation === observedGeneration
    ? String(generation)
    : `${generation}, observed ${observedGeneration || "none"}`;
}

function conditionText(deployment: DeploymentStatus): string {
  if (deployment.heldReason !== "") return `held: ${deployment.heldReason}`;
  if (deployment.drifted) return "drifted";
  return deployment.generation === deployment.observedGeneration ? "as desired" : "converging";
}

function instanceText(instance: ObservedInstance): string {
  const health = instance.health === "" || instance.health === "UNKNOWN" ? "" : `, ${instance.health.toLowerCase()}`;
  const restarts = instance.restarts === 0 ? "" : `, ${instance.restarts} restarts`;
  const exit = instance.exitCode === undefined ? "" : `, exit code ${instance.exitCode}`;
  const addresses = Object.entries(instance.addresses).map(([name, address]) => `, ${name} at ${address}`);
  const why = instance.reason === "" ? "" : `: ${instance.reason}`;
  return `${instance.phase.toLowerCase()}${health}${exit}${restarts}${addresses.join("")}${why}`;
}
