/**
 * Copies of requests. A copy never slows its original: what the mirror does not
 * take in time is dropped, and so is the whole copy.
 */
import { request, type IncomingMessage } from "node:http";
import { forBackend } from "./headers.ts";
import type { Forwarding } from "./plan.ts";

/** What may wait for a slow mirror, per request. */
const maxWaitingBytes = 1024 * 1024;
/** A mirror has this long for its whole answer, which nobody reads. */
const mirrorTimeoutMs = 30_000;
/** Copies in flight in this process; further ones are not made. */
const maxCopies = 1024;

let copies = 0;

export interface Copy {
  write(chunk: Buffer): void;
  end(): void;
}

/** Starts the copies that the route's mirrors and their percentages ask for. Never throws. */
export function startMirrors(
  req: IncomingMessage,
  plan: Forwarding,
  headers: readonly string[],
  body: boolean,
): Copy[] {
  const started: Copy[] = [];
  for (const { backend, percent } of plan.entry.route.mirrors) {
    if (Math.random() * 100 >= percent || copies >= maxCopies) continue;
    copies += 1;
    const copy = request({
      ...backend.pool.options(false),
      method: req.method!,
      path: backend.basePath + plan.target,
      headers: [...forBackend(withoutExpect(headers), backend.secretHeaders)],
      signal: AbortSignal.timeout(mirrorTimeoutMs),
    });
    copy.on("error", () => {
      // Nobody waits for a mirror.
    });
    copy.on("response", (response) => {
      response.on("error", () => {
        // As above.
      });
      response.resume();
    });
    copy.once("close", () => (copies -= 1));
    if (!body) {
      copy.end();
      continue;
    }
    req.once("close", () => {
      if (!req.complete) copy.destroy();
    });
    started.push({
      write(chunk) {
        if (copy.destroyed) return;
        copy.write(chunk);
        if (copy.writableLength > maxWaitingBytes) copy.destroy();
      },
      end() {
        if (!copy.destroyed) copy.end();
      },
    });
  }
  return started;
}

/** The original asks; a copy just sends. */
function withoutExpect(headers: readonly string[]): string[] {
  return headers.filter((_, i) => headers[i - (i % 2)]!.toLowerCase() !== "expect");
}
