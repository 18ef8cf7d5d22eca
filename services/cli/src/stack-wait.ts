/** Waits for a stack's rollout, or its end, with progress, and says how it ended. */
import {
  Rollout_State as State,
  type Rollout,
  type Stack,
  Stack_State,
  StackSchema,
  StackTarget_State,
} from "@bowline/contract/stacks";
import type { Cli } from "./cli.ts";
import type { Api } from "./client.ts";
import { exitCodes, Failure } from "./failure.ts";
import { follow, timeLimit } from "./follow.ts";
import { json, printJsonLine } from "./output.ts";
import type { OutputFlags } from "./output.ts";
import { board } from "./progress.ts";
import type { Row } from "./progress.ts";
import {
  awayText,
  failingService,
  hasEnded,
  notWell,
  restOf,
  rolloutTitle,
  stackRows,
  stackTitle,
  stillRuns,
} from "./stack-rows.ts";
import { enumName } from "./text.ts";

export type FollowFlags = OutputFlags & { timeout?: number };
type How = {
  /** Print each change as JSON. */
  lines?: boolean;
  /** Services that the change leaves as they are. */
  kept?: ReadonlySet<string>;
};

/** Follows the stack until `isDone`. Fails with exit code 3 where the time is over; Ctrl-C leaves the work alone. */
async function followUntil(
  cli: Cli,
  api: Api,
  start: Stack,
  flags: FollowFlags,
  how: How & { title: string; isDone: (stack: Stack) => Promise<boolean> | boolean },
): Promise<Stack> {
  const { limit, signal } = timeLimit(cli, flags.timeout);
  const shown = board(cli, how.title, flags.quiet === true || how.lines === true);
  const take = (stack: Stack): void => {
    if (how.lines === true) printJsonLine(cli, json(StackSchema, stack));
    shown.show([...backRow(start, stack), ...stackRows(stack, how.kept)]);
  };
  let newest = start;
  shown.show(stackRows(newest, how.kept));
  let done = await how.isDone(newest);
  if (done && how.lines === true) printJsonLine(cli, json(StackSchema, newest));
  const events = done
    ? []
    : follow(cli, (cursor, options) => api.stacks.watchStack({ id: start.id, cursor }, options), signal);
  for await (const { stack } of events) {
    if (stack === undefined) continue;
    newest = stack;
    take(newest);
    done = await how.isDone(newest);
    if (done) break;
  }
  shown.end();
  if (done) return newest;
  throw goesOn(newest, limit.aborted);
}

/** That it goes back meanwhile, which the title does not know. */
function backRow(start: Stack, { rollout }: Stack): Row[] {
  if (rollout?.cause !== "revert" || rollout.id === start.rollout?.id) return [];
  return [{ key: rollout.id, cells: [`r${rollout.toRevision}`, "", "it goes back to this"] }];
}

/**
 * Follows the rollout that `start` has until it ends; where it goes back by
 * itself, until that has ended too. Returns the stack and the rollout as they
 * are then.
 */
export async function followRollout(
  cli: Cli,
  api: Api,
  start: Stack,
  flags: FollowFlags,
  how: How = {},
): Promise<{ stack: Stack; rollout: Rollout | undefined }> {
  const id = start.rollout?.id;
  let rollout = start.rollout;
  const stack = await followUntil(cli, api, start, flags, {
    ...how,
    title: rolloutTitle(start),
    isDone: async (now) => {
      if (now.state === Stack_State.DELETING || now.state === Stack_State.DELETED) return true;
      if (now.rollout?.id === id) rollout = now.rollout;
      else if (id !== undefined && !hasEnded(rollout)) rollout = await api.rollouts.getRollout({ id });
      if (rollout === undefined || !hasEnded(rollout)) return rollout === undefined || restOf(rollout) !== undefined;
      const { state, followedBy } = rollout;
      if ((state !== State.ROLLED_BACK && state !== State.ABORTED) || followedBy === "") return true;
      // Only when what goes back has ended is known what runs.
      return now.rollout?.id === followedBy ? hasEnded(now.rollout) : now.rollout?.id !== id;
    },
  });
  return { stack, rollout };
}

/** Follows a stack that is being removed until no host has anything of it. */
export async function followRemoval(
  cli: Cli,
  api: Api,
  start: Stack,
  flags: FollowFlags,
  lines = false,
): Promise<Stack> {
  return followUntil(cli, api, start, flags, {
    lines,
    title: `${start.name} in ${start.cluster} is being removed`,
    isDone: ({ state }) => state === Stack_State.DELETED,
  });
}

/** Fails unless the rollout succeeded, or waits for somebody with all well. */
export function expectRollout(stack: Stack, rollout: Rollout | undefined): void {
  if (rollout?.state === State.SUCCEEDED) return;
  const rest = restOf(rollout);
  if (rest === "promotion" || rest === "keeps") return;
  if (stack.state === Stack_State.DELETING || stack.state === Stack_State.DELETED)
    throw new Failure(exitCodes.failed, `${stack.name} is being removed.`, { reason: "STACK_DELETING" });
  const failed = stack.targets.filter(({ state }) => state === StackTarget_State.TARGET_FAILED);
  const to = rollout === undefined ? stackTitle(stack) : `${stack.name} r${rollout.toRevision} to ${stack.cluster}`;
  const message = rollout?.message.split("\n")[0] ?? "";
  throw new Failure(
    exitCodes.failed,
    `${to}: ${rollout === undefined ? enumName(Stack_State, stack.state) : enumName(State, rollout.state)}${colon(message)}`,
    {
      reason: rollout?.reason || (rollout === undefined ? stack.reason : enumName(State, rollout.state)),
      lines: [
        ...(rollout?.message ?? "").split("\n").slice(1),
        ...failed.flatMap((target) => [
          `${target.agent}: ${target.reason}${colon(target.message.split("\n")[0] ?? "")}`,
          ...stillRuns(stack, target).map((line) => `${target.agent} ${line}`),
        ]),
        ...(isLate(rollout) ? notWell(stack).map(({ line }) => line) : []),
        ...whatHolds(stack, rollout),
      ],
      next: nextOf(stack, rollout),
    },
  );
}

/** It ended because something was not healthy in time; only what runs can tell what. */
function isLate(rollout: Rollout | undefined): boolean {
  return rollout?.reason === "PROGRESS_DEADLINE" || rollout?.reason === "HEALTHY_DEADLINE";
}

/** What runs after a rollout that did not succeed. */
function whatHolds(stack: Stack, rollout: Rollout | undefined): string[] {
  if (rollout?.state === State.SUPERSEDED) return ["A newer rollout took its place."];
  const isBack = stack.rollout?.id !== rollout?.id && stack.rollout?.cause === "revert";
  if (isBack && stack.rollout?.state === State.SUCCEEDED) return [`It went back: r${stack.revision} runs.`];
  if (isBack && !hasEnded(stack.rollout)) return [`It goes back to r${stack.revision}.`];
  if (stack.stableRevision === 0) return ["There is no earlier revision to go back to."];
  if (stack.stableRevision === stack.revision) return []; // a restart, or a host that came later
  return [`r${stack.stableRevision} runs on where r${stack.revision} did not get.`];
}

function nextOf(stack: Stack, rollout: Rollout | undefined): string[] {
  if (restOf(rollout) === "unclear")
    return ["resume", "promote", "abort"].map((verb) => `stack rollout ${verb} ${stack.name}`);
  if (rollout?.state === State.SUPERSEDED) return [`stack watch ${stack.name}`];
  const went = stack.rollout?.cause === "revert" || [0, stack.revision].includes(stack.stableRevision);
  const target = stack.targets.find(({ state }) => state === StackTarget_State.TARGET_FAILED);
  const late = isLate(rollout) ? notWell(stack)[0]?.service : undefined;
  const failing = target === undefined ? late : failingService(target);
  return [
    ...(failing === undefined ? [] : [`stack logs ${stack.name} ${failing}`]),
    ...[`stack ps ${stack.name}`, ...(went ? [] : [`stack rollback ${stack.name} --to ${stack.stableRevision}`])],
  ];
}

function goesOn(stack: Stack, timedOut: boolean): Failure {
  const { rollout } = stack;
  const how =
    stack.state === Stack_State.DELETING
      ? `DELETING, ${stack.owingAgents.join(", ")} still to go`
      : rollout !== undefined && rollout.total > 1
        ? `done on ${rollout.done} of ${rollout.total}`
        : enumName(Stack_State, stack.state);
  const away = stack.targets.filter(({ reason }) => reason === "AGENT_OFFLINE");
  const inTheWay = stack.targets.filter(
    ({ state, reason }) => state === StackTarget_State.REMOVING && reason !== "" && reason !== "AGENT_OFFLINE",
  );
  return new Failure(timedOut ? exitCodes.notInTime : exitCodes.interrupted, `${stackTitle(stack)}: ${how}`, {
    reason: timedOut ? "NOT_IN_TIME" : "INTERRUPTED",
    lines: [
      ...away.map((target) => `${target.agent}: ${awayText(target)}`),
      ...inTheWay.map(({ agent, reason, message }) => `${agent}: ${reason}${colon(message.split("\n")[0] ?? "")}`),
      "It goes on without this window. To watch it again:",
    ],
    next: [`stack watch ${stack.state === Stack_State.DELETING ? stack.id : stack.name}`],
  });
}

function colon(text: string): string {
  return text === "" ? "" : `: ${text}`;
}
