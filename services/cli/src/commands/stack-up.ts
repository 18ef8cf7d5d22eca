/** `bowline stack up|validate`: Compose files to a server. */
import { randomUUID } from "node:crypto";
import {
  type ApplyStackResponse,
  ApplyStackResponseSchema,
  ValidateStackResponseSchema,
} from "@bowline/contract/stacks";
import { type Command, InvalidArgumentError, Option } from "commander";
import { changeLines } from "./changes.ts";
import { connected, listArgument, spanArgument, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, WaitFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import type { Api } from "../client.ts";
import { usage } from "../failure.ts";
import { hint, json, printJson } from "../output.ts";
import { limitsOf, policyOf, rolled, type RolloutFlags } from "../rollout-flags.ts";
import { actionText, keptBy } from "../stack-rows.ts";
import type { LocalStack, SourceFlags } from "../stack-source.ts";
import { columns, plain } from "../text.ts";
import { finishRollout } from "./stack-actions.ts";

/** A rollout over some ten hosts with its times; it has a deadline of its own. */
const defaultWaitMs = 30 * 60_000;

type UpFlags = ConnectionFlags &
  WaitFlags &
  SourceFlags &
  RolloutFlags & { to?: string; dryRun?: boolean; requestId?: string };

export function stackUp(cli: Cli, stack: Command): void {
  connected(
    rolled(
      sourced(
        verb(stack, {
          usage: "up",
          summary: "Make a stack what Compose files say, and roll it out",
          examples: [
            "stack up --name shop --to factory-7",
            "stack up -f compose.yaml -f production.yaml --name shop --to factory-7 --max-parallel 2",
            "stack up -f compose.yaml --dry-run",
            "stack up --strategy blue-green --gate 'smoke=http:web:8080/ready' --keep-old 10m",
            "stack up --strategy canary --canary 10%",
          ],
          more:
            "Only what changed is replaced, one host after the other; hosts that are away follow when they return. Where it\n" +
            "fails it goes back to the last revision that ran. `$NAME` and `${NAME}` are taken from the shell and from .env\n" +
            "beside the first file, the shell first; only what the files name is sent. Ctrl-C leaves the rollout alone.",
        }),
      )
        .option("--to <cluster>", "the cluster (default: the one that it has; for a new one the default cluster)")
        .option("--dry-run", "only tell what would change, and on which host")
        .option("--wait", "wait until it runs, with progress on standard error (the default)")
        .option("--no-wait", "do not wait")
        .addOption(
          new Option("--timeout <time>", "longest wait; the rollout goes on after it")
            .argParser(spanArgument)
            .default(defaultWaitMs, "30m"),
        )
        .option("--request-id <id>", "makes a repeated command safe (default: a random one)"),
    ),
  ).action(async (flags: UpFlags) => {
    const { composeFailure, expectValid, readStack, tellWarnings, validated } = await sources();
    const local = await readStack(cli, flags);
    if (!/^[a-z][a-z0-9-]{0,62}$/.test(local.name))
      throw usage(
        flags.name === undefined
          ? "the stack has no name: say --name"
          : `"${flags.name}" is not a name of a stack: lower-case letters, digits and dashes, a letter first, at most 63`,
      );
    const api = await openApi(cli, flags);
    const checked = await validated(cli, api, local, flags.to ?? "");
    expectValid(cli, local, checked, flags.quiet === true);
    const applied = await apply(api, local, flags).catch((error: unknown) => {
      throw composeFailure(local, error) ?? error;
    });
    // What holds of the hosts and the policy, beside the files.
    if (flags.quiet !== true) tellWarnings(cli, applied.warnings, checked.warnings);
    if (flags.dryRun === true) return tellPlan(cli, flags, local, applied);
    if (applied.stack === undefined) return;
    const kept = keptBy(applied.plan);
    await finishRollout(cli, api, applied.stack, { ...flags, wait: flags.wait !== false }, { kept });
  });

  connected(
    sourced(
      verb(stack, {
        usage: "validate",
        summary: "Check Compose files, and print them merged and interpolated",
        examples: ["stack validate", "stack validate -f compose.yaml -f production.yaml --to factory-7"],
        more: "Every error is told with its file, line and column, what is ignored as a warning. Nothing is changed.",
      }),
    ).option("--to <cluster>", "also what the policy of this cluster refuses"),
  ).action(async (flags: ConnectionFlags & SourceFlags & { to?: string }) => {
    const { expectValid, readStack, validated } = await sources();
    const local = await readStack(cli, flags);
    const api = await openApi(cli, flags);
    const answer = await validated(cli, api, local, flags.to ?? "");
    if (flags.output === "json") printJson(cli, json(ValidateStackResponseSchema, answer));
    expectValid(cli, local, answer, flags.quiet === true || flags.output === "json");
    if (flags.output === "json" || flags.quiet === true) return;
    cli.print(answer.normalised.trimEnd());
    cli.note(`No errors${answer.warnings.length === 0 ? "." : `, ${answer.warnings.length} warnings.`}`);
  });
}

/** It brings a YAML parser along. */
const sources = () => import("../stack-source.ts");

function absoluteArgument(text: string): string {
  if (!text.startsWith("/")) throw new InvalidArgumentError("Write an absolute path of the hosts, such as /srv/shop.");
  return text;
}

function sourced(command: Command): Command {
  return command
    .option(
      "-f, --file <file>",
      "a Compose file; may be repeated, later ones win; - is standard input (default: those of COMPOSE_FILE, else compose.yaml or docker-compose.yaml, and its override)",
      (file: string, before: string[] | undefined) => [...(before ?? []), file],
    )
    .option("--name <name>", "the stack's name (default: the file's own, else the folder's)")
    .option(
      "--host-directory <path>",
      "folder on the hosts where relative bind mounts start (default: their files travel along, as copies)",
      absoluteArgument,
    )
    .option("--profile <profile>", "a profile that is on; may be repeated", listArgument)
    .option(
      "--env-file <file>",
      "variables instead of .env; may be repeated, later ones win",
      (file: string, before: string[] | undefined) => [...(before ?? []), file],
    );
}

async function apply(api: Api, local: LocalStack, flags: UpFlags): Promise<ApplyStackResponse> {
  return api.stacks.applyStack({
    name: local.name,
    clusterId: flags.to ?? "",
    source: local.source,
    ...policyOf(flags),
    ...limitsOf(flags),
    dryRun: flags.dryRun === true,
    requestId: flags.dryRun === true ? "" : (flags.requestId ?? randomUUID()),
  });
}

function tellPlan(cli: Cli, flags: UpFlags, local: LocalStack, applied: ApplyStackResponse): void {
  if (flags.output === "json") return printJson(cli, json(ApplyStackResponseSchema, applied));
  const { plan, changes, stack } = applied;
  if (flags.quiet !== true) {
    const rows = plan.map(({ agent, service, action, count }) => [agent, service, actionText(action), String(count)]);
    for (const line of columns([["HOST", "SERVICE", "ACTION", "COUNT"], ...rows.map((row) => row.map(plain))]))
      cli.print(line);
    for (const line of changeLines(changes)) cli.print(line);
  } else if (stack !== undefined) cli.print(stack.id);
  if (plan.length === 0) hint(cli, flags, "No host of the cluster can take it now; it would follow when one enrols.");
  const what = changes.length === 0 ? "Nothing differs from what is wanted now." : `${local.name} was left as it is.`;
  hint(cli, flags, what);
}
