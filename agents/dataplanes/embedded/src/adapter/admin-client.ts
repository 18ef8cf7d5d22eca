/** The adapter's side of the data plane's admin port (proxy/admin.ts), and of its listeners for probes. */
import { readFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import type { Runtime } from "@bowline/agent-core";
import {
  adminPortName,
  configVolume,
  probePath,
  tokenFile,
  workloadName,
  writeDocument,
  type AttachedDocument,
  type DataPlaneStatus,
} from "../document.ts";

/** Loopback or the next hop; compiling the largest document takes well below a second. */
const callTimeoutMs = 10_000;
/** An answer of ours is small; a status with thousands of deployments is not above this. */
const maxAnswerBytes = 16 * 1024 * 1024;

interface Address {
  host: string;
  port: number;
}

interface Answer {
  status: number;
  body: unknown;
}

export interface AdminClient {
  status(signal: AbortSignal): Promise<DataPlaneStatus>;
  /** Undefined: taken over; else why not. */
  put(document: AttachedDocument, signal?: AbortSignal): Promise<{ path: string; message: string } | undefined>;
  delete(deploymentId: string, signal?: AbortSignal): Promise<void>;
}

/** Undefined: there is no data plane to talk to (yet). */
export async function reachAdmin(runtime: Runtime, dataPlaneId: string): Promise<AdminClient | undefined> {
  const address = await runtime.upstream(dataPlaneId, workloadName, adminPortName);
  const volume = await runtime.volumePath(dataPlaneId, configVolume);
  if (address === undefined || volume === undefined) return undefined;
  let secret: string;
  try {
    secret = await readFile(join(volume, tokenFile), "utf8");
  } catch {
    return undefined; // It writes its secret before it opens the port.
  }
  const ask = async (method: string, path: string, body?: string, signal?: AbortSignal): Promise<Answer> => {
    const answer = await call(address, method, path, { authorization: `Bearer ${secret}` }, body, signal);
    if (answer.status !== 200 && answer.status !== 422) {
      throw new Error(`the data plane's admin port answers ${answer.status} to ${method} ${path}`);
    }
    return answer;
  };
  return {
    status: async (signal) => (await ask("GET", "/status", undefined, signal)).body as DataPlaneStatus,
    async put(document, signal) {
      const { status, body } = await ask("PUT", `/routes/${document.deploymentId}`, writeDocument(document), signal);
      return status === 422 ? (body as { path: string; message: string }) : undefined;
    },
    async delete(deploymentId, signal) {
      await ask("DELETE", `/routes/${deploymentId}`, undefined, signal);
    },
  };
}

/** The generation that a listener answers with; undefined: it does not serve the deployment. Throws where nobody answers. */
export async function probe(address: Address, deploymentId: string, signal: AbortSignal): Promise<number | undefined> {
  const { status, body } = await call(address, "GET", probePath(deploymentId), {}, undefined, signal);
  const found = body as { deploymentId?: unknown; generation?: unknown } | undefined;
  const ours = status === 200 && found?.deploymentId === deploymentId && typeof found.generation === "number";
  return ours ? (found.generation as number) : undefined;
}

/** One connection per call: nothing stays open in the agent. */
function call(
  { host, port }: Address,
  method: string,
  path: string,
  headers: Record<string, string>,
  body: string | undefined,
  signal: AbortSignal | undefined,
): Promise<Answer> {
  const timeout = AbortSignal.timeout(callTimeoutMs);
  return new Promise((resolve, reject) => {
    const req = request({
      host,
      port,
      method,
      path,
      agent: false,
      headers: { ...headers, ...(body === undefined ? {} : { "content-length": String(Buffer.byteLength(body)) }) },
      signal: signal === undefined ? timeout : AbortSignal.any([signal, timeout]),
    });
    req.on("error", reject);
    req.on("response", (res) => {
      let text = "";
      res.setEncoding("utf8");
      res.on("data", (chunk: string) => {
        text += chunk;
        if (text.length > maxAnswerBytes) res.destroy(new Error(`an answer of more than ${maxAnswerBytes} bytes`));
      });
      res.on("error", reject);
      res.on("end", () => resolve({ status: res.statusCode!, body: parse(text) }));
    });
    req.end(body);
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // Somebody else listens there.
  }
}
