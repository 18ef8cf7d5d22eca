/** `bowline cluster`: the places where things run, and who may publish to them. */
import { create } from "@bufbuild/protobuf";
import {
  Cluster_State,
  ClusterPolicy_ClientCertificates,
  ClusterPolicy_DriftRepair,
  ClusterPolicySchema,
  ClusterSchema,
  ListClustersResponseSchema,
} from "@bowline/contract/clusters";
import type { Cluster } from "@bowline/contract/clusters";
import { Option } from "commander";
import type { Command } from "commander";
import { connected, labelArgument, listArgument, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { usage } from "../failure.ts";
import { hint, printDone, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { enumName, labels, when } from "../text.ts";
import { allowedText, policyFlags, policyOf, type PolicyFlags } from "./cluster-policy.ts";

type Fields = ConnectionFlags &
  PolicyFlags & {
    displayName?: string;
    region?: string;
    cloudProvider?: string;
    label?: Record<string, string>;
    capability?: string[];
    default?: boolean;
    active?: boolean;
    clientCertificates?: "off" | "required";
    driftRepair?: "show" | "repair";
  };

export function clusterCommand(cli: Cli): Command {
  const cluster = noun("cluster", "Clusters: the places where things run, and who may publish to them");

  const creating = verb(cluster, {
    usage: "create <name>",
    summary: "Create a cluster",
    examples: [
      "cluster create factory-7 --runtime docker --region eu-west",
      "cluster create local --runtime local --allow-private-backends",
    ],
  }).addOption(
    new Option("--runtime <runtime>", "what its agents run on; never changes")
      .choices(["docker", "kubernetes", "local"])
      .makeOptionMandatory(),
  );
  connected(fields(creating, false)).action(async (name: string, flags: Fields & { runtime: string }) => {
    const api = await openApi(cli, flags);
    const wanted = create(ClusterSchema, { name, runtime: flags.runtime });
    change(wanted, flags);
    const made = await api.clusters.createCluster({ cluster: wanted });
    printDone(cli, flags, {
      schema: ClusterSchema,
      message: made,
      id: made.id,
      text: `Cluster ${made.name} (${made.runtime}) is made.`,
    });
    hint(cli, flags, "Let an agent join it:", `token create --cluster ${made.name}`);
  });

  connected(
    listed(
      verb(cluster, {
        usage: "list",
        summary: "List clusters",
        examples: ["cluster list", "cluster list --runtime docker -o json"],
      }),
    ).option("--runtime <runtime>", "only of this runtime"),
  ).action(async (flags: ListFlags & { runtime?: string }) => {
    const api = await openApi(cli, flags);
    const response = await allPages(
      flags.limit,
      (page) => api.clusters.listClusters({ ...page, runtime: flags.runtime }),
      (page) => page.clusters,
    );
    printList(cli, flags, {
      schema: ListClustersResponseSchema,
      response,
      rows: response.clusters,
      id: (row) => row.id,
      columns: [
        ["NAME", (row) => row.name + (row.isDefault ? " (default)" : "")],
        ["RUNTIME", (row) => row.runtime],
        ["STATE", stateText],
        ["AGENTS", (row) => `${row.agentsOnline}/${row.agentsTotal}`],
        ["REGION", (row) => row.region || "–"],
        ["CREATED", (row) => when(row.createdAt)],
      ],
      none: `No clusters. Make one: ${cli.settings.invocation} cluster create <name> --runtime docker`,
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    verb(cluster, { usage: "get <cluster>", summary: "Show one cluster", examples: ["cluster get factory-7"] }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    show(cli, flags, await api.clusters.getCluster({ id }));
  });

  connected(
    fields(
      verb(cluster, {
        usage: "update <cluster>",
        summary: "Change a cluster",
        examples: ["cluster update factory-7 --region eu-north --no-active"],
        more: "Only what is given changes. The runtime never changes.",
      }),
      true,
    ),
  ).action(async (id: string, flags: Fields) => {
    const api = await openApi(cli, flags);
    const cluster = await api.clusters.getCluster({ id });
    const paths = change(cluster, flags);
    if (paths.length === 0) throw usage("nothing to change was given");
    // With the etag that was read: a change by somebody else in between is refused, not overwritten.
    const changed = await api.clusters.updateCluster({ cluster, updateMask: { paths } });
    printDone(cli, flags, {
      schema: ClusterSchema,
      message: changed,
      id: changed.id,
      text: `Cluster ${changed.name} is changed: ${paths.join(", ")}.`,
    });
  });

  connected(
    verb(cluster, {
      usage: "delete <cluster>",
      summary: "Delete a cluster",
      examples: ["cluster delete factory-7", "cluster delete factory-7 --cascade --yes"],
    })
      .option("--cascade", "remove everything in it first; it is DELETING until that is done")
      .option("-y, --yes", "do not ask"),
  ).action(async (id: string, flags: ConnectionFlags & { cascade?: boolean; yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.clusters.getCluster({ id });
    const within =
      flags.cascade === true ? ` with its ${found.agentsTotal} agents and all that is published there` : "";
    await confirm(cli, flags, `delete cluster ${found.name} (${found.runtime})${within}`);
    await api.clusters.deleteCluster({ id: found.id, etag: found.etag, cascade: flags.cascade });
    printDone(cli, flags, {
      schema: ClusterSchema,
      message: found,
      id: found.id,
      text: `Cluster ${found.name} is ${flags.cascade === true ? "being deleted" : "deleted"}.`,
    });
  });

  for (const [name, summary, words] of [
    ["grant", "Let an organisation publish to a cluster", "may publish to"],
    ["ungrant", "Take a grant back; what is published stays", "may no longer publish to"],
  ] as const) {
    connected(
      verb(cluster, {
        usage: `${name} <cluster> <organisation>`,
        summary,
        examples: [`cluster ${name} factory-7 acme`, `cluster ${name} factory-7 '*'`],
        more: "'*' stands for all organisations.",
      }),
    ).action(async (id: string, organisationId: string, flags: ConnectionFlags) => {
      const api = await openApi(cli, flags);
      const request = { id, organisationId };
      const changed =
        name === "grant" ? await api.clusters.grantCluster(request) : await api.clusters.ungrantCluster(request);
      const who = organisationId === "*" ? "Every organisation" : organisationId;
      printDone(cli, flags, {
        schema: ClusterSchema,
        message: changed,
        id: changed.id,
        text: `${who} ${words} ${changed.name}.`,
      });
    });
  }
  return cluster;
}

function fields(command: Command, both: boolean): Command {
  command
    .option("--display-name <text>", "for people")
    .option("--region <region>", "for placement and for people")
    .option("--cloud-provider <name>", "for placement and for people")
    .option("--label <key=value>", "a label; may be repeated", labelArgument)
    .option("--capability <name>", "restricts what agents report; may be repeated (default: all of it)", listArgument)
    .option("--default", "the one that is taken where none is named")
    .option("--no-active", "it takes no new work")
    .addOption(
      new Option("--client-certificates <when>", "agents come with a client certificate (default: off)").choices([
        "off",
        "required",
      ]),
    )
    .addOption(new Option("--drift-repair <what>", "what drift leads to (default: show)").choices(["show", "repair"]));
  policyFlags(command, both);
  if (!both) return command;
  return command.option("--active", "it takes work again").option("--no-default", "it is not taken by default");
}

/** Puts the flags into the cluster; returns the fields that they name. */
function change(cluster: Cluster, flags: Fields): string[] {
  const paths: string[] = [];
  const set = <K extends keyof Cluster>(path: string, key: K, value: Cluster[K] | undefined): void => {
    if (value === undefined) return;
    cluster[key] = value;
    paths.push(path);
  };
  set("display_name", "displayName", flags.displayName);
  set("region", "region", flags.region);
  set("cloud_provider", "cloudProvider", flags.cloudProvider);
  set("labels", "labels", flags.label);
  set("capabilities", "capabilities", flags.capability);
  set("is_default", "isDefault", flags.default);
  set("is_active", "isActive", flags.active);
  const drift =
    flags.driftRepair === undefined
      ? undefined
      : ClusterPolicy_DriftRepair[flags.driftRepair === "show" ? "SHOW" : "REPAIR"];
  const certificates =
    flags.clientCertificates === undefined
      ? undefined
      : ClusterPolicy_ClientCertificates[flags.clientCertificates === "off" ? "OFF" : "REQUIRED"];
  const policy = {
    ...policyOf(flags),
    clientCertificates: certificates,
    driftRepair: drift,
  };
  const given = Object.fromEntries(Object.entries(policy).filter(([, value]) => value !== undefined));
  if (Object.keys(given).length > 0)
    set("policy", "policy", Object.assign(create(ClusterPolicySchema), cluster.policy, given));
  return paths;
}

function stateText(cluster: Cluster): string {
  const state = enumName(Cluster_State, cluster.state).toLowerCase().replaceAll("_", " ");
  return cluster.isActive === false ? `${state}, takes no new work` : state;
}

function show(cli: Cli, flags: ConnectionFlags, cluster: Cluster): void {
  const policy = cluster.policy ?? create(ClusterPolicySchema);
  printOne(cli, flags, {
    schema: ClusterSchema,
    message: cluster,
    id: cluster.id,
    title: cluster.displayName === "" ? cluster.name : `${cluster.name}   ${cluster.displayName}`,
    facts: [
      ["id", cluster.id],
      ["runtime", cluster.runtime],
      ["state", stateText(cluster)],
      ["agents", `${cluster.agentsOnline} of ${cluster.agentsTotal} online`],
      ["region", cluster.region],
      ["cloud", cluster.cloudProvider],
      ["labels", labels(cluster.labels)],
      ["default", cluster.isDefault ? "yes" : ""],
      ["allows", allowedText(policy)],
      ["certificates", policy.clientCertificates === ClusterPolicy_ClientCertificates.REQUIRED ? "required" : ""],
      ["drift", policy.driftRepair === ClusterPolicy_DriftRepair.REPAIR ? "repaired" : "shown"],
      ["granted to", cluster.grantedOrganisationIds.join(", ") || "nobody"],
      ["created", when(cluster.createdAt)],
      ["changed", when(cluster.updatedAt)],
    ],
  });
}
