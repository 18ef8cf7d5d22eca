/** Fetching specs: many pushes share a call; each spec's digest is checked. */
import { createHash } from "node:crypto";
import { create, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { AgentService, type DeployCommand, type FetchedDeployment } from "@bowline/contract/agent";
import { DeploymentSchema } from "@bowline/contract/deployments";
import type { FailureReason } from "./runtime.ts";

export type Fetched =
  | { kind: "spec"; spec: Uint8Array }
  | { kind: "not-in-flight" }
  /** The command cannot be carried out as it is; the server says why. */
  | { kind: "refused"; reason: FailureReason; message: string }
  /** The bytes are not what the command names. */
  | { kind: "wrong-digest" };

export interface Fetcher {
  /** Rejects where the call failed; the command is pushed again. `traceParent`: the trace that the call is shown in. */
  fetch(command: DeployCommand, traceParent?: string): Promise<Fetched>;
}

/** The contract's limit of one call. */
const maxItems = 64;
/** Asked anew with a new token this often before the call fails. */
const tokenTries = 2;

/** `token` gives the session's access token; `renew` asks for a new one and resolves when it is there. */
export function createFetcher(
  transport: Transport,
  ports: { token: () => string; renew: () => Promise<void> },
  signal: AbortSignal,
): Fetcher {
  const client = createClient(AgentService, transport);
  interface Waiting {
    command: DeployCommand;
    traceParent: string;
    resolve: (fetched: Fetched) => void;
    reject: (error: unknown) => void;
  }
  let waiting: Waiting[] = [];
  let running = false;

  async function call(batch: readonly Waiting[]): Promise<FetchedDeployment[]> {
    const items = batch.map(({ command: { commandId, attempt } }) => ({ commandId, attempt }));
    for (let attempt = 1; ; attempt += 1) {
      try {
        // Of several commands the call is shown in the trace of the first that has one.
        const traceparent = batch.find((one) => one.traceParent !== "")?.traceParent;
        const headers = {
          authorization: `Bearer ${ports.token()}`,
          ...(traceparent === undefined ? {} : { traceparent }),
        };
        return (await client.fetchDeployments({ items }, { signal, headers })).deployments;
      } catch (error) {
        // UNAUTHENTICATED never fails a command: renew and ask again.
        if (ConnectError.from(error).code !== Code.Unauthenticated || attempt >= tokenTries) throw error;
        await ports.renew();
      }
    }
  }

  async function drain(): Promise<void> {
    running = true;
    await Promise.resolve(); // what is pushed in the same turn shares the call
    while (waiting.length > 0) {
      const batch = waiting.splice(0, maxItems);
      try {
        const answers = new Map((await call(batch)).map((answer) => [answer.commandId, answer]));
        for (const one of batch) {
          const answer = answers.get(one.command.commandId);
          if (answer === undefined) waiting.push(one); // did not fit into the answer
          else one.resolve(read(one.command, answer));
        }
        if (answers.size === 0) throw new Error("the server answered no spec at all");
      } catch (error) {
        for (const one of batch) one.reject(error);
        waiting = waiting.filter((one) => !batch.includes(one));
      }
    }
    running = false;
  }

  return {
    fetch: (command, traceParent = "") =>
      new Promise((resolve, reject) => {
        waiting.push({ command, traceParent, resolve, reject });
        if (!running) void drain();
      }),
  };
}

/**
 * The stored bytes with the sealed values behind them: protobuf reads the two
 * as one message. What the journal keeps is sealed, as it came.
 */
function withSealed({ spec, sealedSecrets, sealedRegistries }: FetchedDeployment): Uint8Array {
  if (Object.keys(sealedSecrets).length + Object.keys(sealedRegistries).length === 0) return spec;
  const sealed = create(DeploymentSchema, { sealedSecrets, sealedRegistries });
  return Buffer.concat([spec, toBinary(DeploymentSchema, sealed)]);
}

function read(command: DeployCommand, answer: FetchedDeployment): Fetched {
  const { reason, message } = answer;
  if (reason === "SECRET_UNREADABLE") return { kind: "refused", reason, message };
  if (reason !== "") return { kind: "not-in-flight" };
  const digest = createHash("sha256").update(answer.spec).digest("hex");
  if (digest !== command.digest || answer.generation !== command.generation) return { kind: "wrong-digest" };
  return { kind: "spec", spec: withSealed(answer) };
}
