/** `bowline-agent rotate-key`: asks the agent that runs on this folder for new keys, and waits until it has them. */
import { join } from "node:path";
import { readKeyPair, readPrivateFile } from "@bowline/auth";
import { type Clock, systemClock } from "@bowline/kernel";
import type { CommandEnd } from "./command-end.ts";
import { askForRotation, readRequest } from "./rotation-request.ts";

const lookEveryMs = 250;

/** Exit codes: 0 it has new keys; 1 it cannot; 3 not within `waitMs`: it will, as soon as it is connected. */
export async function rotateKeyCommand(
  dataDir: string,
  waitMs: number,
  clock: Clock = systemClock,
): Promise<CommandEnd> {
  const before = await thumbprintIn(dataDir);
  if (before === undefined) {
    const reason = "NOT_ENROLLED";
    return failed(reason, `${dataDir} is not the folder of an agent that has enrolled; name its folder (--data-dir)`);
  }
  await askForRotation(dataDir, before);
  const until = clock.monotonicMs() + waitMs;
  const never = new AbortController().signal;
  for (;;) {
    const after = await thumbprintIn(dataDir);
    if (after !== undefined && after !== before) {
      const text = `The agent has new keys.\n  before  ${before}\n  now     ${after}\nThe one before opens nothing any more.`;
      return { exitCode: 0, text, json: { before, after } };
    }
    const request = await readRequest(dataDir);
    if (request?.state === "refused")
      return failed(request.reason, `the server did not take new keys: ${request.message}`);
    if (clock.monotonicMs() >= until) {
      const reason = "NOT_IN_TIME";
      const text = `No new keys within ${Math.round(waitMs / 1000)} s: the agent does not run, or is not connected. It makes them as soon as it is.`;
      return { exitCode: 3, text: `${reason}: ${text}`, json: { before, reason, message: text } };
    }
    await clock.sleep(lookEveryMs, never);
  }
}

function failed(reason: string, message: string): CommandEnd {
  return { exitCode: 1, text: `${reason}: ${message}`, json: { reason, message } };
}

/** Of the signing key in this folder; undefined: there is none. */
async function thumbprintIn(dataDir: string): Promise<string | undefined> {
  if ((await readPrivateFile(join(dataDir, "agent.json"))) === undefined) return undefined;
  const text = await readPrivateFile(join(dataDir, "signing-key.json"));
  return text === undefined ? undefined : (await readKeyPair(JSON.parse(text), "Ed25519")).thumbprint;
}
