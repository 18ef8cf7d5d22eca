/** `bowline stack rollout`: how a stack comes from one revision to another. */
import { isId } from "@bowline/kernel";
import { durationMs } from "@bufbuild/protobuf/wkt";
import {
  ListRolloutsResponseSchema,
  type Rollout,
  Rollout_Phase as Phase,
  Rollout_State as State,
  RolloutPolicy_Strategy as Strategy,
  RolloutSchema,
} from "@bowline/contract/stacks";
import type { Command } from "commander";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import type { Api } from "../client.ts";
import { exitCodes, Failure } from "../failure.ts";
import { hint, printDone, printList, printOne } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { hasEnded } from "../stack-rows.ts";
import { enumName, nothing, span, when } from "../text.ts";

export function rolloutCommand(cli: Cli): Command {
  const rollout = noun("rollout", "Rollouts: how a stack comes from one revision to another");

  connected(
    listed(
      verb(rollout, {
        usage: "list <stack>",
        summary: "List a stack's rollouts, newest first",
        examples: ["stack rollout list shop"],
      }),
    ),
  ).action(async (stackId: string, flags: ListFlags) => {
    const api = await openApi(cli, flags);
    const response = await allPages(
      flags.limit,
      (page) => api.rollouts.listRollouts({ ...page, stackId }),
      (page) => page.rollouts,
    );
    printList(cli, flags, {
      schema: ListRolloutsResponseSchema,
      response,
      rows: response.rollouts,
      id: (row) => row.id,
      columns: [
        ["CAUSE", (row) => row.cause],
        ["REVISIONS", revisionsText],
        ["STATE", (row) => [enumName(State, row.state), row.reason].filter((part) => part !== "").join(", ")],
        ["HOSTS", (row) => `${row.done}/${row.total}`],
        ["BEGUN", (row) => when(row.createdAt)],
        ["BY", (row) => row.createdByName || row.createdBy || nothing],
        ["ID", (row) => row.id],
      ],
      none: "No rollouts.",
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    verb(rollout, {
      usage: "get <rollout>",
      summary: "Show one rollout: an id, or the newest of a stack",
      examples: ["stack rollout get shop", "stack rollout get rollout_01k3… -o json"],
    }),
  ).action(async (name: string, flags: ConnectionFlags) => {
    const api = await openApi(cli, flags);
    show(cli, flags, await api.rollouts.getRollout({ id: await findRollout(api, name) }));
  });

  const acts = [
    ["pause", "Begin no further host until it is resumed; what is under way ends", "pauseRollout"],
    ["resume", "Go on; the progress deadline begins anew", "resumeRollout"],
    ["promote", "Go on to what is new, where old and new run side by side", "promoteRollout"],
    ["abort", "End it at once and go back to the last stable revision", "abortRollout"],
  ] as const;
  for (const [name, summary, method] of acts) {
    const promotes = name === "promote";
    const act = verb(rollout, {
      usage: `${name} <rollout>`,
      summary,
      examples: [
        `stack rollout ${name} shop`,
        `stack rollout ${name} rollout_01k3…`,
        ...(promotes ? ["stack rollout promote shop --full"] : []),
      ],
      ...(promotes ? { more: "Typed again while the rollout goes on it changes nothing." } : {}),
    });
    if (promotes) act.option("--full", "with blue-green: the old goes as soon as the ports have switched");
    connected(act).action(async (given: string, flags: ConnectionFlags & { full?: boolean }) => {
      const api = await openApi(cli, flags);
      const done = await api.rollouts[method]({ id: await findRollout(api, given), full: flags.full });
      printDone(cli, flags, {
        schema: RolloutSchema,
        message: done,
        id: done.id,
        text: `${rolloutText(done)}  ${done.id}`,
      });
      hint(cli, flags, "To watch it:", `stack watch ${done.stack}`);
    });
  }
  return rollout;
}

/** `apply r3 → r4 by admin: RUNNING, 1 of 3 hosts`. */
export function rolloutText(rollout: Rollout): string {
  const message = (rollout.message.split("\n")[0] ?? "").replace(/:$/, ""); // a log follows, which is not for one line
  const why = [rollout.reason, message].filter((part) => part !== "").join(": ");
  const by = rollout.createdByName === "" ? "" : ` by ${rollout.createdByName}`;
  const state = `${enumName(State, rollout.state)}, ${rollout.done} of ${rollout.total} hosts`;
  return `${rollout.cause} ${revisionsText(rollout)}${by}: ${state}${why === "" ? "" : `, ${why}`}`;
}

function revisionsText({ fromRevision, toRevision }: Rollout): string {
  return fromRevision === 0 || fromRevision === toRevision ? `r${toRevision}` : `r${fromRevision} → r${toRevision}`;
}

/** What it does now, and what it waits for. */
function phaseText(rollout: Rollout): string {
  const phase = enumName(Phase, rollout.phase).toLowerCase();
  if (rollout.awaitsPromotion) return `${phase}, awaits promotion`;
  return rollout.removesOldAt === undefined ? phase : `${phase}, the old goes at ${when(rollout.removesOldAt)}`;
}

/** The id of a rollout, or of the newest of a stack. */
async function findRollout(api: Api, name: string): Promise<string> {
  if (isId("rollout", name)) return name;
  const { rollout } = await api.stacks.getStack({ id: name });
  if (rollout !== undefined) return rollout.id;
  throw new Failure(exitCodes.failed, `${name} has no rollout.`, { reason: "NOT_FOUND", next: [`stack get ${name}`] });
}

function show(cli: Cli, flags: ConnectionFlags, rollout: Rollout): void {
  const { policy } = rollout;
  printOne(cli, flags, {
    schema: RolloutSchema,
    message: rollout,
    id: rollout.id,
    title: `${rollout.stack}: ${rolloutText(rollout)}`,
    facts: [
      ["id", rollout.id],
      ["state", [enumName(State, rollout.state), rollout.reason].filter((part) => part !== "").join(", ")],
      ["why", rollout.message],
      [
        "strategy",
        enumName(Strategy, policy?.strategy || Strategy.ROLLING)
          .toLowerCase()
          .replace("_", "/"),
      ],
      ["phase", hasEnded(rollout) ? "" : phaseText(rollout)],
      ["side by side", rollout.sideBySide.join(", ")],
      ["gates", policy?.gates.map(({ name, service }) => `${name} (${service})`).join(", ") ?? ""],
      ["revisions", revisionsText(rollout)],
      ["hosts", `${rollout.done} of ${rollout.total} have it`],
      ["at a time", String(policy?.maxParallel || 1)],
      ["healthy for", policy?.minHealthyTime === undefined ? "10 s" : span(durationMs(policy.minHealthyTime))],
      ["deadline", policy?.progressDeadline === undefined ? "10 min" : span(durationMs(policy.progressDeadline))],
      ["goes back by itself", policy?.autoRevert === false ? "no" : "yes"],
      ["followed by", rollout.followedBy],
      ["begun", `${when(rollout.createdAt)} by ${rollout.createdByName || rollout.createdBy}`],
      ["ended", rollout.endedAt === undefined ? "" : when(rollout.endedAt)],
    ],
  });
}
