/**
 * Replaces the agent's keys while it runs: when somebody asks for it, when they
 * are old, or where a change has no known end.
 *
 *   keys.ts           the keys on the disk       rotation-request.ts  how somebody asks
 *   connect.ts        signs with what this says
 *
 * R1: after a crash or a lost reply either key may be the one that the server
 *     has. The present one is tried first; where the server says that it is not
 *     the agent's, the next one is.
 * R2: a session that opened with a key settles which one it is: a change that an
 *     earlier session asked for cannot happen any more (K6 of the server).
 */
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { type KeyPair, signKeyChange } from "@bowline/auth";
import { AgentService } from "@bowline/contract/agent";
import { type Clock, crashPoint } from "@bowline/kernel";
import { refusalOf } from "@bowline/session";
import type { Enrolled } from "./identity.ts";
import type { KeyStore } from "./keys.ts";
import type { Log } from "./log.ts";
import { readRequest, refuseRequest, settleRequest } from "./rotation-request.ts";
import type { SessionCalls, SessionEnd } from "./serve.ts";

export interface Rotation {
  /** What the next assertion is signed with (R1). */
  signing(): KeyPair;
  /** Looks after the keys while a session serves, until `signal` aborts. Never rejects for what a server does. */
  run(session: SessionCalls, signal: AbortSignal): Promise<void>;
  /** The end of a session, as connect.ts is to take it: a refused key may not be the only one. */
  after(end: SessionEnd): SessionEnd;
}

/** How soon somebody who asks is heard: a look is one read of a file. */
const lookEveryMs = 2_000;
/** After a call without an answer. */
const againAfterMs = 30_000;
/** Reasons of a server that does not take the key that signed. */
const notMyKey = new Set(["AGENT_KEY_REPLACED", "ASSERTION_INVALID"]);
/** Refusals of the keys themselves, or of every change: these keys the server has not got. */
const keysRefused = new Set(["AGENT_KEY_IN_USE", "KEY_PROOF_INVALID", "INVALID_ARGUMENT", "UNKNOWN_METHOD"]);
/** Asked anew with a new token this often within one try. */
const tokenTries = 2;

export function createRotation(parts: {
  keys: KeyStore;
  enrolled: Pick<Enrolled, "agentId" | "installationId">;
  dataDir: string;
  /** 0: only when somebody asks. */
  keyMaxAgeMs: number;
  clock: Clock;
  log: Log;
}): Rotation {
  const { keys, enrolled, dataDir, keyMaxAgeMs, clock, log } = parts;
  let useNext = false;
  /** Both keys were refused, one after the other. */
  let bothRefused = false;
  /** Thumbprint of the key of the last assertion. */
  let signedWith = "";

  return {
    signing() {
      const { signing } = useNext ? (keys.next() ?? keys.current()) : keys.current();
      signedWith = signing.thumbprint;
      return signing;
    },

    after(end) {
      if (end.kind !== "refused" || !notMyKey.has(end.reason)) return end;
      const { reason, message } = end;
      const again = { kind: "lost", reason, message, retryAfterMs: undefined, greeted: false } as const;
      // A change ended after this was signed, while the session before it was still closing.
      if (!useNext && signedWith !== keys.current().signing.thumbprint) return again;
      if (keys.next() === undefined || bothRefused) return end;
      bothRefused = useNext; // the present one was refused before
      if (bothRefused) return end;
      useNext = true; // R1
      log.info({ reason }, "the key is not the agent's any more; signing with the next one");
      return again;
    },

    async run(session, signal) {
      bothRefused = false;
      while (!signal.aborted) {
        let forMs = againAfterMs;
        try {
          if (useNext) await promote(); // R2
          forMs = (await isDue()) ? await rotate(session, signal) : lookEveryMs;
        } catch (error) {
          // The disk: what is on it still opens sessions (K1), and it may have room later.
          const text = error instanceof Error ? error.message : String(error);
          log.error({ error: text, againInMs: forMs }, "the keys could not be replaced");
        }
        if (!signal.aborted) await clock.sleep(forMs, signal);
      }
    },
  };

  async function promote(): Promise<void> {
    const before = keys.current().signing.thumbprint;
    await keys.promote();
    useNext = false;
    crashPoint("rotation.promoted");
    await settleRequest(dataDir);
    log.info({ before, after: keys.current().signing.thumbprint }, "the agent has new keys");
  }

  async function isDue(): Promise<boolean> {
    if (keys.next() !== undefined) return true;
    const request = await readRequest(dataDir);
    if (request?.state === "asked") {
      if (request.key === keys.current().signing.thumbprint) return true;
      await settleRequest(dataDir); // A crash came after the change and before its end was noted.
    }
    return keyMaxAgeMs > 0 && (await keys.ageMs(clock.now())) > keyMaxAgeMs;
  }

  /** One try. Returns how long to wait. */
  async function rotate(session: SessionCalls, signal: AbortSignal): Promise<number> {
    const next = await keys.prepare(); // K1
    crashPoint("rotation.prepared");
    const change = {
      agentId: enrolled.agentId,
      audience: enrolled.installationId,
      thumbprint: next.signing.thumbprint,
      sealingThumbprint: next.sealing.thumbprint,
    };
    try {
      await call(session, signal, {
        signingKey: JSON.stringify(next.signing.publicJwk),
        sealingKey: JSON.stringify(next.sealing.publicJwk),
        proof: await signKeyChange(next.signing, change, clock.now()),
        approval: await signKeyChange(keys.current().signing, change, clock.now()),
      });
    } catch (error) {
      if (signal.aborted) return 0;
      const { reason, message, retryAfterMs } = refusalOf(error);
      log.warn({ reason, detail: message }, "the keys were not replaced");
      if (keysRefused.has(reason)) await keys.drop();
      if (keysRefused.has(reason) || reason === "RATE_LIMITED" || reason === "CLOCK_SKEW")
        await refuseRequest(dataDir, { reason, message });
      return Math.max(retryAfterMs ?? 0, againAfterMs);
    }
    crashPoint("rotation.answered");
    await promote();
    return lookEveryMs;
  }

  async function call(
    session: SessionCalls,
    signal: AbortSignal,
    request: { signingKey: string; sealingKey: string; proof: string; approval: string },
  ): Promise<void> {
    const client = createClient(AgentService, session.unary);
    for (let tries = 1; ; tries += 1) {
      try {
        await client.rotateKey(request, { signal, headers: { authorization: `Bearer ${session.token()}` } });
        return;
      } catch (error) {
        // A proof that does not hold is UNAUTHENTICATED too, but no token mends it.
        const { reason } = refusalOf(error);
        const expired = ConnectError.from(error).code === Code.Unauthenticated && !keysRefused.has(reason);
        if (!expired || tries >= tokenTries) throw error;
        await Promise.race([session.renew(), over(signal)]);
      }
    }
  }
}

/** Resolves when `signal` aborts: the stream that would bring a token is gone. */
function over(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
