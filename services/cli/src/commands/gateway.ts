/** `bowline gateway`: templates for data planes. */
import { create } from "@bufbuild/protobuf";
import { ListenerSchema } from "@bowline/contract/deployments";
import type { Listener } from "@bowline/contract/deployments";
import { GatewaySchema, ListGatewaysResponseSchema } from "@bowline/contract/products";
import type { Gateway } from "@bowline/contract/products";
import { InvalidArgumentError } from "commander";
import type { Command } from "commander";
import { connected, labelArgument, listed, noun, portArgument, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { usage } from "../failure.ts";
import { printDone, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { labels, when } from "../text.ts";

type Fields = ConnectionFlags & {
  displayName?: string;
  listener?: Listener[];
  agentLabel?: Record<string, string>;
  default?: boolean;
};

export function gatewayCommand(cli: Cli): Command {
  const gateway = noun("gateway", "Gateways: templates for data planes; they know no cluster");

  connected(
    fields(
      verb(gateway, {
        usage: "create <name>",
        summary: "Create a gateway",
        examples: [
          "gateway create edge --listener http:8081",
          "gateway create public --listener http:80:0.0.0.0 --agent-label zone=dmz",
        ],
      }).option("--class <class>", "gateway class, as agents report it; never changes (default: embedded)"),
    ),
  ).action(async (name: string, flags: Fields & { class?: string }) => {
    const api = await openApi(cli, flags);
    const wanted = create(GatewaySchema, { name, gatewayClass: flags.class });
    change(wanted, flags);
    const made = await api.gateways.createGateway({ gateway: wanted });
    printDone(cli, flags, {
      schema: GatewaySchema,
      message: made,
      id: made.id,
      text: `Gateway ${made.name} (${made.gatewayClass}) is made: ${listenersText(made)}.`,
    });
  });

  connected(listed(verb(gateway, { usage: "list", summary: "List gateways", examples: ["gateway list"] }))).action(
    async (flags: ListFlags) => {
      const api = await openApi(cli, flags);
      const response = await allPages(
        flags.limit,
        (page) => api.gateways.listGateways(page),
        (page) => page.gateways,
      );
      printList(cli, flags, {
        schema: ListGatewaysResponseSchema,
        response,
        rows: response.gateways,
        id: (row) => row.id,
        columns: [
          ["NAME", (row) => row.name + (row.isDefault ? " (default)" : "")],
          ["CLASS", (row) => row.gatewayClass],
          ["LISTENERS", listenersText],
          ["CREATED", (row) => when(row.createdAt)],
          ["ID", (row) => row.id],
        ],
        none: "No gateways. The first publish makes the default one.",
      });
      sayMore(cli, flags, response, flags.limit);
    },
  );

  connected(
    verb(gateway, { usage: "get <gateway>", summary: "Show one gateway", examples: ["gateway get default"] }),
  ).action(async (id: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    const found = await api.gateways.getGateway({ id });
    printOne(cli, flags, {
      schema: GatewaySchema,
      message: found,
      id: found.id,
      title: found.displayName === "" ? found.name : `${found.name}   ${found.displayName}`,
      facts: [
        ["id", found.id],
        ["class", found.gatewayClass],
        ["listeners", listenersText(found)],
        ["agents with", labels(found.agentLabels)],
        ["default", found.isDefault ? "yes" : ""],
        ["created", when(found.createdAt)],
        ["changed", when(found.updatedAt)],
      ],
    });
  });

  connected(
    fields(
      verb(gateway, {
        usage: "update <gateway>",
        summary: "Change a gateway",
        examples: ["gateway update default --listener http:8090"],
        more: "Only what is given changes; listeners are replaced together.",
      }),
    ).option("--no-default", "it is not taken by default"),
  ).action(async (id: string, flags: Fields) => {
    const api = await openApi(cli, flags);
    const found = await api.gateways.getGateway({ id });
    const paths = change(found, flags);
    if (paths.length === 0) throw usage("nothing to change was given");
    const changed = await api.gateways.updateGateway({ gateway: found, updateMask: { paths } });
    printDone(cli, flags, {
      schema: GatewaySchema,
      message: changed,
      id: changed.id,
      text: `Gateway ${changed.name} is changed: ${paths.join(", ")}.`,
    });
  });

  connected(
    verb(gateway, {
      usage: "delete <gateway>",
      summary: "Delete a gateway that no publish is on",
      examples: ["gateway delete edge --yes"],
    }).option("-y, --yes", "do not ask"),
  ).action(async (id: string, flags: ConnectionFlags & { yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.gateways.getGateway({ id });
    await confirm(cli, flags, `delete gateway ${found.name} (${listenersText(found)})`);
    await api.gateways.deleteGateway({ id: found.id, etag: found.etag });
    printDone(cli, flags, {
      schema: GatewaySchema,
      message: found,
      id: found.id,
      text: `Gateway ${found.name} is deleted.`,
    });
  });
  return gateway;
}

function fields(command: Command): Command {
  return command
    .option("--display-name <text>", "for people")
    .option(
      "--listener <name:port[:address]>",
      "where it listens, port 0 is any free one; may be repeated (default: http:8081)",
      listenerArgument,
    )
    .option(
      "--agent-label <key=value>",
      "only agents with this label get a data plane; may be repeated (default: all)",
      labelArgument,
    )
    .option("--default", "the one that publishes take where none is named");
}

function listenerArgument(text: string, before: Listener[] | undefined): Listener[] {
  const parts = /^([a-z][a-z0-9-]{0,62}):(\d{1,5})(?::(.+))?$/.exec(text);
  if (parts === null) throw new InvalidArgumentError("Write a listener like http:8081 or http:8081:0.0.0.0.");
  const [, name = "", port = "", address = ""] = parts;
  return [...(before ?? []), create(ListenerSchema, { name, protocol: "HTTP", port: portArgument(port), address })];
}

function change(gateway: Gateway, flags: Fields): string[] {
  const paths: string[] = [];
  const set = <K extends keyof Gateway>(path: string, key: K, value: Gateway[K] | undefined): void => {
    if (value === undefined) return;
    gateway[key] = value;
    paths.push(path);
  };
  set("display_name", "displayName", flags.displayName);
  set("listeners", "listeners", flags.listener);
  set("agent_labels", "agentLabels", flags.agentLabel);
  set("is_default", "isDefault", flags.default);
  return paths;
}

function listenersText(gateway: Gateway): string {
  return gateway.listeners
    .map(
      ({ name, port, address }) => `${name} on ${address === "" ? "" : `${address}:`}${port === 0 ? "any port" : port}`,
    )
    .join(", ");
}
