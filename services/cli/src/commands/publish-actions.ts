/** `bowline publish create|rollback|unpublish`: what starts work, and waits for it where asked to. */
import { randomUUID } from "node:crypto";
import { create } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { CommandLimitsSchema, ProductPublish_State as State, ProductPublishSchema } from "@bowline/contract/products";
import type { ProductPublish } from "@bowline/contract/products";
import { type Command, InvalidArgumentError } from "commander";
import { connected, countArgument, listArgument, spanArgument, verb, waiting } from "../cli.ts";
import type { Cli, ConnectionFlags, WaitFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import type { Api } from "../client.ts";
import { confirm } from "../confirm.ts";
import { hint, json, printDone, printJson } from "../output.ts";
import { expectState, followBack, followPublish, publishTitle } from "../publish-wait.ts";
import { findPublish } from "../resolve.ts";
import { enumName } from "../text.ts";

/** Adds `--to`, with which a publish is named by its product. */
export function named(command: Command): Command {
  return command.option("--to <cluster>", "with a product's name: the cluster");
}

type CreateFlags = ConnectionFlags &
  WaitFlags & {
    to: string;
    gateway?: string;
    revision?: string;
    apiService?: string[];
    draft?: boolean;
    maxRetries?: number;
    runTimeout?: number;
    offlineLife?: number;
    maxParallel?: number;
    autoRevert?: boolean;
    requestId?: string;
  };

export function publishActions(cli: Cli, publish: Command): void {
  connected(
    waiting(
      verb(publish, {
        usage: "create <product>",
        summary: "Publish a product to a cluster",
        examples: [
          "publish create hello --to local --wait",
          "publish create orders --to factory-7 --revision 3 --wait --timeout 2m",
          "publish create orders --to factory-7 --max-parallel 1 --auto-revert --wait",
        ],
        more: [
          "Without --revision a revision is made of the product as it is now.",
          "With --max-parallel the next agents get it when the ones before have it, and none once one has failed; until then they serve what they had. Agents that are away come last, and hold nobody up.",
          "With --auto-revert and --wait it ends when what was live before is live again; the exit code is 1 all the same.",
        ].join("\n\n"),
      })
        .requiredOption("--to <cluster>", "the cluster; never guessed")
        .option("--gateway <gateway>", "the gateway (default: the organisation's default)")
        .option("--revision <n>", "number or id of the revision (default: one is made now)")
        .option("--api-service <name>", "only this API service; may be repeated (default: all)", listArgument)
        .option("--draft", "only make it; nothing is deployed")
        .option("--max-retries <n>", "tries after the first (default: 3)", countArgument)
        .option("--run-timeout <time>", "longest run of one attempt (default: 5m)", spanArgument)
        .option("--offline-life <time>", "how long it waits for an agent that is away (default: 24h)", spanArgument)
        .option("--max-parallel <n>", "agents on their way at a time, to 1000 (default: 0, all at once)", parallel)
        .option("--auto-revert", "where it fails at an agent, publish again at all what was live before")
        .option("--request-id <id>", "makes a repeated command safe (default: a random one)"),
      "it is LIVE",
    ),
  ).action(async (product: string, flags: CreateFlags) => {
    const api = await openApi(cli, flags);
    const made = await api.publishes.createProductPublish({
      productId: product,
      clusterId: flags.to,
      gatewayId: flags.gateway,
      revisionId: flags.revision,
      apiServices: flags.apiService,
      draft: flags.draft,
      rollout: { maxParallel: flags.maxParallel, autoRevert: flags.autoRevert },
      requestId: flags.requestId ?? randomUUID(),
      limits: create(CommandLimitsSchema, {
        maxRetries: flags.maxRetries,
        runTimeout: flags.runTimeout === undefined ? undefined : durationFromMs(flags.runTimeout),
        offlineLife: flags.offlineLife === undefined ? undefined : durationFromMs(flags.offlineLife),
      }),
    });
    await finish(cli, api, made, flags, flags.draft === true ? State.DRAFT : State.LIVE);
  });

  connected(
    waiting(
      named(
        verb(publish, {
          usage: "rollback <publish>",
          summary: "Publish an older revision again, as a new publish",
          examples: ["publish rollback hello --to local --wait", "publish rollback publish_01k3… --wait"],
          more: "Of the newest publish (or a product with --to): the revision that was live before it. Of an older one: its own.",
        }),
      ).option("--request-id <id>", "makes a repeated command safe (default: a random one)"),
      "it is LIVE",
    ),
  ).action(async (name: string, flags: ConnectionFlags & WaitFlags & { to?: string; requestId?: string }) => {
    const api = await openApi(cli, flags);
    const { id } = await findPublish(api, name, flags.to);
    const made = await api.publishes.rollbackProductPublish({ id, requestId: flags.requestId ?? randomUUID() });
    await finish(cli, api, made, flags, State.LIVE);
  });

  connected(
    waiting(
      named(
        verb(publish, {
          usage: "unpublish <publish>",
          summary: "Remove what is published",
          examples: ["publish unpublish hello --to local --wait --yes"],
        }),
      )
        .option("-y, --yes", "do not ask")
        .option("--request-id <id>", "makes a repeated command safe (default: a random one)"),
      "it is removed",
    ),
  ).action(
    async (name: string, flags: ConnectionFlags & WaitFlags & { to?: string; yes?: boolean; requestId?: string }) => {
      const api = await openApi(cli, flags);
      const found = await findPublish(api, name, flags.to);
      await confirm(
        cli,
        flags,
        `remove ${found.product} r${found.revision} from ${found.cluster} (${found.targets.length} agents); its routes answer no more`,
      );
      const made = await api.publishes.unpublishProductPublish({
        id: found.id,
        requestId: flags.requestId ?? randomUUID(),
      });
      await finish(cli, api, made, flags, State.UNPUBLISHED);
    },
  );
}

/** As many as the API takes. */
function parallel(text: string): number {
  const count = countArgument(text);
  if (count > 1_000) throw new InvalidArgumentError("Write a number from 0 to 1000.");
  return count;
}

async function finish(
  cli: Cli,
  api: Api,
  made: ProductPublish,
  flags: ConnectionFlags & WaitFlags,
  wanted: State,
): Promise<void> {
  const waits = flags.wait === true && wanted !== State.DRAFT;
  const begunAtMs = Date.now();
  const end = waits ? await followPublish(cli, api, made, flags, false) : made;
  if (waits && end.state !== wanted) {
    // A program wants to know where it ended, whatever the exit code.
    if (flags.output === "json") printJson(cli, json(ProductPublishSchema, end));
    expectState(end, wanted, await followBack(cli, api, end, flags, begunAtMs));
  }
  const text = `${publishTitle(end)}: ${enumName(State, end.state)}   ${end.id}`;
  printDone(cli, flags, { schema: ProductPublishSchema, message: end, id: end.id, text });
  if (end.state === State.LIVE && flags.quiet !== true && flags.output === "table") {
    for (const url of new Set(end.targets.flatMap((target) => target.urls))) cli.print(`  ${url}`);
  }
  if (!waits && wanted !== State.DRAFT) hint(cli, flags, "To watch it:", `publish watch ${end.id}`);
}
