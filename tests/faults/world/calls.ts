/**
 * Callers as one writes them: every call has a key, is repeated with it while its
 * outcome is unknown or the server asks for patience, and every try goes into
 * the history with what became of it.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Answered, Outcome } from "../history/events.ts";
import type { History } from "../history/history.ts";

export interface CommandNamed {
  command: string;
  deployment: string;
  generation: number;
}

export interface Answer {
  outcome: Outcome;
  reason: string;
  /** Id of the publish. */
  id: string;
  commands: readonly CommandNamed[];
}

export interface Call {
  what: Answered["what"];
  key: string;
  url: string;
  path: string;
  token: string;
  body: object;
  version?: string;
  /** Of a cancel: within this its command is to end. */
  boundMs?: number;
}

/** Of one try. A caller that waits longer for an answer counts it as none. */
const answerWithinMs = 20_000;
/** Where a refusal names no time. */
const againMs = 250;
/** A fault that a caller should outlive lasts less, at these scales. */
const giveUpAfterMs = 120_000;

/** The connection's end is one of these: what became of the call nobody said. */
const unknownReasons = new Set(["COMMIT_UNKNOWN", "INTERNAL"]);

interface Said {
  id?: string;
  deploymentId?: string;
  generation?: number;
  targets?: { commandId?: string; deploymentId: string; generation: number }[];
}

/** One try. Never throws: that nobody answered is an outcome. */
export async function tryOnce(call: Call, history: History): Promise<Answer & { againMs: number | undefined }> {
  const askedAt = Date.now();
  const { answer, again } = await ask(call);
  const { what, key, version = "", boundMs = 0 } = call;
  const { outcome, reason, commands } = answer;
  history.append({ kind: "answered", what, key, askedAt, outcome, reason, commands, version, boundMs });
  return { ...answer, againMs: again };
}

/** Repeats it with its key until somebody said what became of it. */
export async function untilAnswered(call: Call, history: History): Promise<Answer> {
  const giveUpAt = performance.now() + giveUpAfterMs;
  for (;;) {
    const answer = await tryOnce(call, history);
    const again = answer.outcome === "unknown" ? (answer.againMs ?? againMs) : answer.againMs;
    if (answer.outcome === "ok" || again === undefined) return answer;
    if (performance.now() > giveUpAt) throw new Error(`nobody answered ${call.path}: ${answer.reason}`);
    await sleep(again);
  }
}

async function ask(call: Call): Promise<{ answer: Answer; again: number | undefined }> {
  const nothing = { id: "", commands: [] };
  let response: Response;
  let said: Said;
  try {
    response = await fetch(`${call.url}${call.path}`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${call.token}`,
        "content-type": "application/json",
        "idempotency-key": call.key,
        connection: "close",
      },
      body: JSON.stringify(call.body),
      signal: AbortSignal.timeout(answerWithinMs),
    });
    said = (await response.json()) as Said;
  } catch (error) {
    const { cause, message } = error as Error;
    const reason = cause instanceof Error ? `${message}: ${cause.message}` : message;
    return { answer: { outcome: "unknown", reason, ...nothing }, again: undefined };
  }
  if (response.ok)
    return {
      answer: { outcome: "ok", reason: "", id: said.id ?? "", commands: namedBy(said, call) },
      again: undefined,
    };
  const reason = reasonOf(said, response.status);
  const retryAfter = Number(response.headers.get("retry-after"));
  return {
    answer: { outcome: unknownReasons.has(reason) ? "unknown" : "failed", reason, ...nothing },
    again: response.status === 503 || response.status === 429 ? Math.max(againMs, retryAfter * 1_000) : undefined,
  };
}

function namedBy(said: Said, { what }: Call): CommandNamed[] {
  if (what === "cancel") {
    const { id = "", deploymentId: deployment = "", generation = 0 } = said;
    return [{ command: id, deployment, generation }];
  }
  return (said.targets ?? []).flatMap(({ commandId: command = "", deploymentId: deployment, generation }) =>
    command === "" ? [] : [{ command, deployment, generation }],
  );
}

function reasonOf(said: Said, status: number): string {
  const text = JSON.stringify(said);
  return /"reason":"([A-Z_]+)"/.exec(text)?.[1] ?? `HTTP ${status} ${text.slice(0, 200)}`;
}
