/** How a stack is to be rolled out and how its commands behave, as flags. */
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { UpdateConfig_Order as Order } from "@bowline/contract/deployments";
import { CommandLimitsSchema } from "@bowline/contract/products";
import { RolloutGateSchema, RolloutPolicy_Strategy as Strategy, RolloutPolicySchema } from "@bowline/contract/stacks";
import { type Command, InvalidArgumentError, Option } from "commander";
import { countArgument, spanArgument } from "./cli.ts";

type Gate = MessageInitShape<typeof RolloutGateSchema>;

export type RolloutFlags = {
  strategy?: keyof typeof strategies;
  order?: keyof typeof orders;
  maxParallel?: number;
  minHealthyTime?: number;
  healthyDeadline?: number;
  progressDeadline?: number;
  autoRevert: boolean;
  autoPromote?: boolean;
  canary?: { canaryCount: number } | { canaryPercent: number };
  keepOld?: number;
  gate?: Gate[];
  maxRetries?: number;
  runTimeout?: number;
  offlineLife?: number;
  priority?: number;
};

const strategies = {
  rolling: Strategy.ROLLING,
  "blue-green": Strategy.BLUE_GREEN,
  canary: Strategy.CANARY,
} as const;
const orders = { "stop-first": Order.STOP_FIRST, "start-first": Order.START_FIRST } as const;

/** Adds the flags. */
export function rolled(command: Command): Command {
  return command
    .optionsGroup("Rollout, kept for later ones; one that is given sets the others of its group to their defaults:")
    .addOption(
      new Option("--strategy <strategy>", "how what is new takes the place of what was (default: rolling)").choices(
        Object.keys(strategies),
      ),
    )
    .addOption(
      new Option(
        "--order <order>",
        "which goes first when a host replaces instances (default: start-first where no port is in the way)",
      ).choices(Object.keys(orders)),
    )
    .option("--max-parallel <n>", "hosts that change at one time (default: 1)", countArgument)
    .option("--min-healthy-time <time>", "how long one must be healthy before the next (default: 10s)", timeArgument)
    .option("--healthy-deadline <time>", "longest time until a host is healthy (default: its command's)", spanArgument)
    .option(
      "--progress-deadline <time>",
      "longest time without an instance that became healthy (default: 10m)",
      spanArgument,
    )
    .option("--no-auto-revert", "where it fails, do not go back by itself")
    .option("--canary <n>", "with canary: new instances of each changed service, or N% (default: 1)", canaryArgument)
    .option("--auto-promote", "go on by itself when all is well (the default of blue-green)")
    .option("--no-auto-promote", "wait for `stack rollout promote` (the default of canary)")
    .option(
      "--keep-old <time>",
      "with blue-green: how long the old is kept after the switch (default: 5m)",
      timeArgument,
    )
    .option(
      "--gate <name=check>",
      "asked of what is new before it takes over; may be repeated: NAME=http:SERVICE:PORT/PATH or NAME=exec:SERVICE:COMMAND",
      gateArgument,
    )
    .optionsGroup("Commands, kept for later ones; one that is given sets the others of its group to their defaults:")
    .option("--max-retries <n>", "tries after the first (default: 3)", countArgument)
    .option("--run-timeout <time>", "longest run of one attempt (default: 5m)", spanArgument)
    .option(
      "--offline-life <time>",
      "how long one waits for a host that is away; then it is made anew when the host returns (default: 24h)",
      spanArgument,
    )
    .option("--priority <n>", "1, most urgent, to 9; removals and stops go first (default: 5)", priority)
    .optionsGroup("Options:");
}

function priority(text: string): number {
  const number = countArgument(text);
  if (number < 1 || number > 9) throw new InvalidArgumentError("Write a number from 1 to 9.");
  return number;
}

/** A time that may be none: `0`. */
function timeArgument(text: string): number {
  return text === "0" || text === "0s" ? 0 : spanArgument(text);
}

export function canaryArgument(text: string): { canaryCount: number } | { canaryPercent: number } {
  const [, number = "", isPercent] = /^([1-9][0-9]{0,2})(%?)$/.exec(text) ?? [];
  const value = Number(number);
  if (value === 0 || (isPercent === "%" && value > 100))
    throw new InvalidArgumentError("Write a number of instances, or a percentage: 2, or 10%.");
  return isPercent === "%" ? { canaryPercent: value } : { canaryCount: value };
}

/** `smoke=http:web:8080/ready`, `smoke=exec:web:./check --fast`. A command runs in the image's `sh`. */
export function gateArgument(text: string, before: Gate[] | undefined): Gate[] {
  const [, name = "", kind, service = "", rest = ""] =
    /^([a-z][a-z0-9-]{0,40})=(http|exec):([^:]+):(.+)$/.exec(text) ?? [];
  const [, port = "", path = ""] = /^([0-9]{1,5})(\/.*)?$/.exec(rest) ?? [];
  if (name === "" || (kind === "http" && port === ""))
    throw new InvalidArgumentError("Write NAME=http:SERVICE:PORT/PATH or NAME=exec:SERVICE:COMMAND.");
  const check: Gate["check"] =
    kind === "http"
      ? { case: "http", value: { port, path } }
      : { case: "exec", value: { command: ["sh", "-c", rest] } };
  return [...(before ?? []), { name, service, check }];
}

const duration = (ms: number | undefined) => (ms === undefined ? undefined : durationFromMs(ms));

/** Unset where nothing of it was said: it stays as it was. */
export function policyOf(flags: RolloutFlags) {
  const { strategy, order, maxParallel, minHealthyTime, healthyDeadline, progressDeadline } = flags;
  const { autoPromote, canary, keepOld, gate } = flags;
  const said = [strategy, order, maxParallel, minHealthyTime, healthyDeadline, progressDeadline];
  if ([...said, autoPromote, canary, keepOld, gate].every((one) => one === undefined) && flags.autoRevert) return {};
  return {
    policy: create(RolloutPolicySchema, {
      ...(strategy === undefined ? {} : { strategy: strategies[strategy] }),
      ...(order === undefined ? {} : { order: orders[order] }),
      ...{ maxParallel, autoRevert: flags.autoRevert, autoPromote, gates: gate ?? [], ...canary },
      minHealthyTime: duration(minHealthyTime),
      healthyDeadline: duration(healthyDeadline),
      progressDeadline: duration(progressDeadline),
      keepOld: duration(keepOld),
    }),
  };
}

export function limitsOf({ maxRetries, runTimeout, offlineLife, priority: urgency }: RolloutFlags) {
  if ([maxRetries, runTimeout, offlineLife, urgency].every((one) => one === undefined)) return {};
  return {
    limits: create(CommandLimitsSchema, {
      ...{ maxRetries, priority: urgency },
      runTimeout: duration(runTimeout),
      offlineLife: duration(offlineLife),
    }),
  };
}
