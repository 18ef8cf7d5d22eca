/**
 * Gates: questions to the instances of a new generation, once all of it is
 * healthy and before anything old ends.
 *
 * G1: per instance a gate passes after its passes, fails with the first failure
 *     that it does not allow, and is inconclusive with the first of those that
 *     it does not allow. So it ends after at most the sum of the three.
 * G2: the first gate that fails ends the others: nothing they say would matter.
 * G3: what an instance answers is bounded, and only its beginning is told.
 */
import { get } from "node:http";
import { systemClock } from "@bowline/kernel";
import type { Deployment, Gate } from "@bowline/contract/deployments";
import type { Held, Member } from "./members.ts";
import { Refusal } from "./refusal.ts";
import { milliseconds } from "./workloads.ts";

/** What the contract promises where a gate says nothing. */
const defaults = { timeoutMs: 10_000, intervalMs: 5_000 };

/** Questions at one time: a thousand instances are not asked by a thousand processes. */
const atOnce = 16;

/** Of an answer or of a command's output, in the message (G3). */
const toldCharacters = 300;

/** EX_TEMPFAIL of sysexits.h. */
const cannotTell = 75;

/** Of one try; `said` is empty where it passes. */
interface Answer {
  kind: "pass" | "fail" | "inconclusive";
  said: string;
}

type Asked<M extends Member> = Pick<Held<M>, "reach" | "exec">;

/**
 * Asks all gates. Throws GATE_FAILED; returns what could not be told, for
 * people, or undefined. After `signal` aborts what it returns means nothing.
 */
export async function askGates<M extends Member>(
  held: Asked<M>,
  spec: Pick<Deployment, "gates">,
  instancesOf: (workload: string) => readonly M[],
  told: (done: number, total: number) => void,
  signal: AbortSignal,
): Promise<string | undefined> {
  const questions = spec.gates.flatMap((gate) => instancesOf(gate.workload).map((instance) => ({ gate, instance })));
  const failing = new AbortController();
  const ends = AbortSignal.any([signal, failing.signal]);
  const unclear: string[] = [];
  const waiting = [...questions];
  let done = 0;
  let failed: string | undefined;
  const asker = async (): Promise<void> => {
    for (let next = waiting.shift(); next !== undefined && !ends.aborted; next = waiting.shift()) {
      const { kind, said } = await askInstance(held, next.gate, next.instance, ends);
      if (ends.aborted) return;
      told((done += 1), questions.length);
      const text = `gate ${next.gate.name}: ${named(next.instance)}: ${said}`;
      if (kind === "inconclusive") unclear.push(text);
      if (kind !== "fail") continue;
      failed = text;
      failing.abort(); // G2
    }
  };
  if (questions.length > 0) told(0, questions.length);
  await Promise.all(Array.from({ length: Math.min(atOnce, questions.length) }, asker));
  // The same program would answer the same: only another spec, or a person, changes that.
  if (failed !== undefined) throw new Refusal("GATE_FAILED", failed, false);
  return unclear.length === 0 ? undefined : unclear.sort().join("; ");
}

/** G1. */
async function askInstance<M extends Member>(
  held: Asked<M>,
  gate: Gate,
  instance: M,
  signal: AbortSignal,
): Promise<Answer> {
  const timeoutMs = milliseconds(gate.timeout) || defaults.timeoutMs;
  const intervalMs = milliseconds(gate.interval) || defaults.intervalMs;
  const count = { pass: 0, fail: 0, inconclusive: 0 };
  for (;;) {
    const answer = await tryOnce(held, gate, instance, AbortSignal.any([signal, AbortSignal.timeout(timeoutMs)]));
    count[answer.kind] += 1;
    const ends =
      signal.aborted ||
      count.pass >= (gate.passes || 1) ||
      count.fail > gate.failuresAllowed ||
      count.inconclusive > gate.inconclusiveAllowed;
    if (ends) return answer;
    await systemClock.sleep(intervalMs, signal);
  }
}

async function tryOnce<M extends Member>(
  held: Asked<M>,
  { check }: Gate,
  instance: M,
  limit: AbortSignal,
): Promise<Answer> {
  switch (check.case) {
    case "http": {
      const address = held.reach(instance, check.value.port);
      if (address === undefined) return { kind: "inconclusive", said: "its port is not there" };
      return await tryHttp(address, check.value.path || "/", limit);
    }
    case "exec":
      return await tryExec(held.exec(instance, check.value.command, limit), check.value.command[0] ?? "", limit);
    case undefined:
      return { kind: "inconclusive", said: "nothing is asked" };
    default:
      return check satisfies never;
  }
}

function tryHttp({ host, port }: { host: string; port: number }, path: string, limit: AbortSignal): Promise<Answer> {
  return new Promise((resolve) => {
    const request = get({ host, port, path, agent: false, signal: limit }, (response) => {
      const status = response.statusCode ?? 0;
      const answer = (body: string): void => {
        response.destroy();
        resolve({ kind: "fail", said: `GET ${path} answers ${status}${body === "" ? "" : `: ${body}`}` });
      };
      if (status >= 200 && status < 400) {
        response.destroy(); // only the status counts, the body may be endless
        return resolve({ kind: "pass", said: "" });
      }
      let body = "";
      response.on("data", (chunk: Buffer) => {
        body += chunk.toString("utf8");
        if (body.length >= toldCharacters) answer(body.slice(0, toldCharacters)); // G3
      });
      response.once("close", () => answer(body.trim()));
      response.on("error", () => {}); // its close says the same
    });
    request.once("error", (error) =>
      resolve({
        kind: "inconclusive",
        said: `GET ${path}: ${limit.aborted ? "no answer in time" : error.message}`,
      }),
    );
  });
}

async function tryExec(
  outputs: ReturnType<Held<Member>["exec"]>,
  program: string,
  limit: AbortSignal,
): Promise<Answer> {
  let written = "";
  try {
    for await (const output of outputs) {
      switch (output.kind) {
        case "stdout":
        case "stderr":
          if (written.length < toldCharacters) written += Buffer.from(output.bytes).toString("utf8"); // G3
          break;
        case "refused":
          return { kind: "inconclusive", said: output.message };
        case "exit": {
          if (output.code === 0) return { kind: "pass", said: "" };
          const text = written.slice(0, toldCharacters).trim();
          const said = `${program} ended with exit code ${output.code}${text === "" ? "" : `: ${text}`}`;
          return { kind: output.code === cannotTell ? "inconclusive" : "fail", said };
        }
        default:
          output satisfies never;
      }
    }
  } catch (error) {
    if (!limit.aborted) return { kind: "inconclusive", said: `${program} could not be run: ${String(error)}` };
  }
  return { kind: "inconclusive", said: `${program} did not end in time` };
}

function named({ definition, workload }: Member): string {
  return `workload ${workload.name}${definition.index === 0 ? "" : ` (instance ${definition.index})`}`;
}
