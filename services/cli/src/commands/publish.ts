/** `bowline publish`: a revision of a product, placed on a cluster. */
import {
  DiffProductPublishResponseSchema,
  ListProductPublishesResponseSchema,
  ProductPublish_State as State,
  ProductPublishSchema,
} from "@bowline/contract/products";
import type { ProductPublish, PublishTarget } from "@bowline/contract/products";
import type { Command } from "commander";
import { named, publishActions } from "./publish-actions.ts";
import { changeLines } from "./changes.ts";
import { connected, limited, listArgument, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { usage } from "../failure.ts";
import { hint, json, printJson, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { expectState, followBack, followPublish, publishTitle, servingText } from "../publish-wait.ts";
import { findPublish } from "../resolve.ts";
import { enumName, nothing, when } from "../text.ts";

export function publishCommand(cli: Cli): Command {
  const publish = noun("publish", "Publishes: a revision of a product, placed on a cluster");
  publishActions(cli, publish);

  connected(
    listed(
      verb(publish, {
        usage: "list",
        summary: "List publishes, newest first",
        examples: ["publish list", "publish list --product hello --cluster local --state LIVE"],
      })
        .option("--product <product>", "only of this product")
        .option("--cluster <cluster>", "only to this cluster")
        .option("--state <state>", "only in this state; may be repeated", listArgument),
    ),
  ).action(async (flags: ListFlags & { product?: string; cluster?: string; state?: string[] }) => {
    const api = await openApi(cli, flags);
    const filter = { productId: flags.product, clusterId: flags.cluster, states: (flags.state ?? []).map(readState) };
    const response = await allPages(
      flags.limit,
      (page) => api.publishes.listProductPublishes({ ...page, ...filter }),
      (page) => page.productPublishes,
    );
    printList(cli, flags, {
      schema: ListProductPublishesResponseSchema,
      response,
      rows: response.productPublishes,
      id: (row) => row.id,
      columns: [
        ["PRODUCT", (row) => `${row.product} r${row.revision}`],
        ["CLUSTER", (row) => row.cluster],
        ["STATE", stateText],
        ["LIVE", (row) => `${row.liveTargets}/${row.targets.length + row.agentsToCome}`],
        ["PUBLISHED", (row) => when(row.createdAt)],
        ["BY", (row) => row.createdByName || row.createdBy || nothing],
        ["ID", (row) => row.id],
      ],
      none: `No publishes. Make one: ${cli.settings.invocation} publish create <product> --to <cluster> --wait`,
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    named(
      verb(publish, {
        usage: "get <publish>",
        summary: "Show one publish: an id, or the newest of a product with --to",
        examples: ["publish get publish_01k3…", "publish get hello --to local"],
      }),
    ),
  ).action(async (name: string, flags: ConnectionFlags & { to?: string }) => {
    const api = await openApi(cli, flags);
    show(cli, flags, await findPublish(api, name, flags.to));
  });

  connected(
    limited(
      named(
        verb(publish, {
          usage: "watch <publish>",
          summary: "Watch a publish until it ends, with progress",
          examples: ["publish watch publish_01k3…", "publish watch hello --to local -o json"],
          more: "Exit code 0: it is LIVE or removed. Ctrl-C leaves the work alone.",
        }),
      ),
    ),
  ).action(async (name: string, flags: ConnectionFlags & { to?: string; timeout?: number }) => {
    const api = await openApi(cli, flags);
    const found = await findPublish(api, name, flags.to);
    const begunAtMs = Date.now();
    const end = await followPublish(cli, api, found, flags, flags.output === "json");
    const back = await followBack(cli, api, end, flags, begunAtMs);
    expectState(end, end.state === State.UNPUBLISHED ? State.UNPUBLISHED : State.LIVE, back);
    if (flags.quiet === true) cli.print(end.id);
    else if (flags.output === "table") cli.print(`${publishTitle(end)}: ${enumName(State, end.state)}`);
  });

  connected(
    named(
      verb(publish, {
        usage: "diff <publish>",
        summary: "Tell what differs between a publish and the product as it is now, or another publish",
        examples: ["publish diff hello --to local", "publish diff publish_01k3… --against publish_01k4…"],
      }),
    ).option("--against <publish>", "id of the publish that is the `after` (default: the product as it is now)"),
  ).action(async (name: string, flags: ConnectionFlags & { to?: string; against?: string }) => {
    const api = await openApi(cli, flags);
    const found = await findPublish(api, name, flags.to);
    const response = await api.publishes.diffProductPublish({ id: found.id, to: flags.against });
    if (flags.output === "json") return printJson(cli, json(DiffProductPublishResponseSchema, response));
    for (const line of changeLines(response.changes)) cli.print(line);
    if (response.changes.length === 0) cli.note("Nothing differs.");
    else if (flags.against === undefined)
      hint(cli, flags, "To publish it as it is now:", `publish create ${found.product} --to ${found.cluster} --wait`);
  });
  return publish;
}

function readState(text: string): State {
  const found = Object.entries(State).find(
    ([name, value]) => name === text.toUpperCase() && typeof value === "number" && value > 0,
  );
  if (found === undefined)
    throw usage(
      `"${text}" is not a state: DRAFT, PENDING, DISPATCHED, APPLYING, LIVE, FAILED, SUPERSEDED, UNPUBLISHING, UNPUBLISHED`,
    );
  return found[1] as State;
}

function stateText(publish: ProductPublish): string {
  const why = publish.reason === "" ? "" : `, ${publish.reason}`;
  const beside = publish.conditions.filter((condition) => condition !== publish.reason);
  return `${enumName(State, publish.state)}${why}${beside.length === 0 ? "" : ` (${beside.join(", ")})`}`;
}

/** What a failure left in place. */
function stillServing(publish: ProductPublish, target: PublishTarget): [string, string][] {
  if (target.state !== State.FAILED || target.servingRevision === 0) return [];
  return [["still serving", servingText(publish, target)]];
}

function rolloutText({ rollout, agentsToCome }: ProductPublish): string {
  const { maxParallel = 0, autoRevert = false } = rollout ?? {};
  const parts = [
    maxParallel === 0 ? [] : [`at most ${maxParallel} at a time`],
    agentsToCome === 0 ? [] : [`${agentsToCome} to come`],
    autoRevert ? ["reverts by itself"] : [],
  ];
  return parts.flat().join(", ");
}

function show(cli: Cli, flags: ConnectionFlags, publish: ProductPublish): void {
  printOne(cli, flags, {
    schema: ProductPublishSchema,
    message: publish,
    id: publish.id,
    title: publishTitle(publish),
    facts: [
      ["id", publish.id],
      ["state", stateText(publish)],
      ["why", publish.message],
      ["gateway", publish.gateway],
      ["API services", publish.apiServices.join(", ")],
      ["live at", `${publish.liveTargets} of ${publish.targets.length + publish.agentsToCome}`],
      ["rollout", rolloutText(publish)],
      ...publish.targets.flatMap((target): [string, string][] => [
        [
          `at ${target.agent}`,
          [enumName(State, target.state), target.reason, target.message, ...target.urls]
            .filter((part) => part !== "")
            .join("  "),
        ],
        ...stillServing(publish, target),
      ]),
      ["rollback of", publish.rollbackOf],
      [publish.state === State.FAILED ? "taken back by" : "superseded by", publish.supersededBy],
      [
        "published",
        `${when(publish.createdAt)}${publish.createdBy === "" ? "" : ` by ${publish.createdByName || publish.createdBy}`}`,
      ],
      ["live since", publish.liveAt === undefined ? "" : when(publish.liveAt)],
    ],
  });
}
