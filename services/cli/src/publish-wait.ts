/** Waits for a publish with progress, and says how it ended. */
import { timestampMs } from "@bufbuild/protobuf/wkt";
import { ProductPublish_State as State, ProductPublishSchema } from "@bowline/contract/products";
import type { ProductPublish, PublishTarget } from "@bowline/contract/products";
import type { Cli } from "./cli.ts";
import type { Api } from "./client.ts";
import { exitCodes, Failure } from "./failure.ts";
import { follow, timeLimit } from "./follow.ts";
import { json, printJsonLine } from "./output.ts";
import type { OutputFlags } from "./output.ts";
import { board } from "./progress.ts";
import type { Row } from "./progress.ts";
import { enumName } from "./text.ts";

const ended: readonly State[] = [State.LIVE, State.FAILED, State.SUPERSEDED, State.UNPUBLISHED, State.DRAFT];

/** `hello r4 to factory-7`. */
export function publishTitle(publish: ProductPublish): string {
  return `${publish.product} r${publish.revision} to ${publish.cluster}`;
}

/**
 * Follows the publish until it ends, and returns it as it is then. With
 * `lines`, each change is also printed as JSON. Fails with exit code 3 where
 * the time is over; Ctrl-C leaves the work alone.
 */
export async function followPublish(
  cli: Cli,
  api: Api,
  start: ProductPublish,
  flags: OutputFlags & { timeout?: number },
  lines: boolean,
): Promise<ProductPublish> {
  const { limit, signal } = timeLimit(cli, flags.timeout);
  const shown = board(cli, `${publishTitle(start)}   ${start.id}`, flags.quiet === true || lines);
  let newest = start;
  shown.show(rows(newest));
  for await (const event of follow(
    cli,
    (cursor, o) => api.publishes.watchProductPublish({ id: start.id, cursor }, o),
    signal,
  )) {
    if (event.productPublish === undefined) continue;
    newest = event.productPublish;
    if (lines) printJsonLine(cli, json(ProductPublishSchema, newest));
    shown.show(rows(newest));
    if (ended.includes(newest.state) && !goesBack(newest)) break;
  }
  shown.end();
  if (ended.includes(newest.state)) return newest;
  throw goesOn(cli, newest, limit.aborted);
}

/** It failed, and the server is about to publish again what was live before. */
function goesBack(publish: ProductPublish): boolean {
  return publish.conditions.includes("REVERTING");
}

/**
 * Where a publish that failed was taken back: follows what took its place until
 * that has ended, or the time since `begunAtMs` is over, and returns it.
 */
export async function followBack(
  cli: Cli,
  api: Api,
  failed: ProductPublish,
  flags: OutputFlags & { timeout?: number; output?: string },
  begunAtMs: number,
): Promise<ProductPublish | undefined> {
  if (failed.state !== State.FAILED || failed.supersededBy === "") return undefined;
  const back = await api.publishes.getProductPublish({ id: failed.supersededBy });
  if (cli.interrupted.aborted || ended.includes(back.state)) return back;
  // Whatever time it had: what took its place is known, and goes to all agents at once.
  const left = flags.timeout === undefined ? undefined : Math.max(1_000, begunAtMs + flags.timeout - Date.now());
  try {
    const quiet = flags.quiet === true || flags.output === "json";
    return await followPublish(cli, api, back, { ...flags, quiet, timeout: left }, false);
  } catch (error) {
    if (error instanceof Failure && error.exitCode !== exitCodes.failed) return back; // it goes on
    throw error;
  }
}

/** Fails unless the publish reached `wanted`. `back`: what took its place when it failed. */
export function expectState(publish: ProductPublish, wanted: State, back?: ProductPublish): void {
  if (publish.state === wanted) return;
  const failed = publish.targets.filter(({ state }) => state === State.FAILED);
  const first = failed[0];
  const serving = back === undefined ? failed.filter((target) => target.servingRevision > 0) : [];
  throw new Failure(
    exitCodes.failed,
    `${publishTitle(publish)}: ${enumName(State, publish.state)}${colon(publish.message)}`,
    {
      reason: publish.reason || enumName(State, publish.state),
      lines: [
        ...failed.map((target) => `${target.agent}: ${target.reason}${colon(target.message)}`),
        ...serving.map((target) => `Still serving at ${target.agent}: ${servingText(publish, target)}.`),
        ...backLines(publish, back),
      ],
      next: nextOf(publish, first, back),
    },
  );
}

/** Where it went, or why nowhere. */
function backLines(publish: ProductPublish, back: ProductPublish | undefined): string[] {
  if (publish.state !== State.FAILED) return [];
  if (back === undefined) {
    if (goesBack(publish)) return ["It goes back by itself to what was live before."];
    const asked = publish.rollout?.autoRevert === true && publish.rollbackOf === "";
    return asked ? ["Nothing else was live before: there is nothing to go back to."] : [];
  }
  const to = `r${back.revision}`;
  const why = `${enumName(State, back.state)}${colon([back.reason, back.message].filter((text) => text !== "").join(": "))}`;
  if (back.state === State.LIVE) return [`It went back: ${to} is LIVE (${back.id}).`];
  return [ended.includes(back.state) ? `Going back to ${to} ended ${why}.` : `It goes back to ${to}: ${why}.`];
}

function nextOf(publish: ProductPublish, first: PublishTarget | undefined, back: ProductPublish | undefined): string[] {
  if (publish.state !== State.FAILED) return [`publish list --product ${publish.product} --cluster ${publish.cluster}`];
  if (back?.state === State.LIVE) return [`publish get ${publish.id}`];
  if (back !== undefined) return [`publish watch ${back.id}`];
  return [
    ...(first === undefined ? [] : [`command retry ${first.commandId} --wait`]),
    `publish rollback ${publish.product} --to ${publish.cluster}`,
  ];
}

function goesOn(cli: Cli, publish: ProductPublish, timedOut: boolean): Failure {
  const total = publish.targets.length + publish.agentsToCome;
  const how = total > 1 ? `LIVE on ${publish.liveTargets} of ${total}` : enumName(State, publish.state);
  const why =
    publish.state === State.PENDING
      ? colon([publish.reason, publish.message].filter((part) => part !== "").join(": "))
      : "";
  return new Failure(timedOut ? exitCodes.notInTime : exitCodes.interrupted, `${publishTitle(publish)}: ${how}${why}`, {
    reason: timedOut ? "NOT_IN_TIME" : "INTERRUPTED",
    lines: ["It goes on without this window. To watch it again:"],
    next: [`publish watch ${publish.id}`],
  });
}

function rows(publish: ProductPublish): Row[] {
  if (publish.targets.length === 0) {
    const why = publish.message || reasonWords[publish.reason] || publish.reason;
    return [{ key: "", cells: [enumName(State, publish.state), why] }];
  }
  const toCome = publish.agentsToCome === 0 ? [] : [{ key: "", cells: [`${publish.agentsToCome} more`, "follow"] }];
  const known = publish.targets.map((target) => {
    const state = enumName(State, target.state);
    const cells = [target.agent, state.padEnd(10), targetText(publish, target)];
    const after = elapsed(publish, target);
    return {
      key: target.agentId,
      cells: after === "" ? cells : [...cells, after],
      below: below(publish, target),
      mark: [state, target.reason, target.progressPhase, target.message].join("\n"),
    };
  });
  return [...known, ...toCome];
}

const reasonWords: Record<string, string> = {
  NO_AGENT: "waits for an agent: none is enrolled in the cluster",
  AGENT_OFFLINE: "the agent is away, it follows when it returns",
};

function targetText(publish: ProductPublish, target: PublishTarget): string {
  switch (target.state) {
    case State.LIVE:
      return `generation ${target.generation} answers`;
    case State.FAILED:
      return target.reason;
    case State.APPLYING: {
      const phase = target.progressPhase.toLowerCase().replaceAll("_", " ");
      const percent = target.progressPercent > 0 ? `${target.progressPercent} %` : "";
      return [percent, phase].filter((part) => part !== "").join(", ");
    }
    default:
      return (
        target.message || reasonWords[target.reason] || target.reason || (publish.state === target.state ? "" : "waits")
      );
  }
}

function below(publish: ProductPublish, target: PublishTarget): string[] {
  if (target.state !== State.FAILED) return [];
  const still = target.servingRevision > 0 ? [`still serving: ${servingText(publish, target)}`] : [];
  return [...(target.message === "" ? [] : [target.message]), ...still];
}

/** Which revision an agent serves, and as which generation. */
export function servingText(publish: ProductPublish, target: PublishTarget): string {
  return `${publish.product} r${target.servingRevision} (generation ${target.servingGeneration})`;
}

function elapsed(publish: ProductPublish, target: PublishTarget): string {
  if (target.state !== State.LIVE || target.updatedAt === undefined || publish.createdAt === undefined) return "";
  const seconds = (timestampMs(target.updatedAt) - timestampMs(publish.createdAt)) / 1_000;
  return `+${Math.max(0, seconds).toFixed(1)} s`;
}

function colon(text: string): string {
  return text === "" ? "" : `: ${text}`;
}
