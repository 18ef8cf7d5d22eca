/** Images: there already, or pulled, by digest where the reference has one. */
import type { ConvergeProgress } from "@bowline/agent-core";
import { Refusal } from "@bowline/agent-core/runtimes";
import type { Deployment } from "@bowline/contract/deployments";
import { EngineError, linesOf, type Engine } from "./engine.ts";

/** A large image over a slow line; the converge's own run timeout is shorter as a rule. */
const pullWithinMs = 3_600_000;

/** What the engine says while it pulls, one line each. */
interface PullLine {
  id?: string;
  status?: string;
  progressDetail?: { current?: number; total?: number };
  errorDetail?: { message?: string };
  error?: string;
}

/** Bytes so far and in all, as far as known. */
export type PullProgress = { received: number; total: number };

/** Credentials of a registry, as the engine takes them; undefined: none. */
export type RegistryAuth = (registry: string) => { username: string; password: string } | undefined;

/** Images that are not there, one after the other: the engine loads layers of one image at once. */
export async function pullAll(
  engine: Engine,
  spec: Deployment,
  auth: RegistryAuth,
  report: (progress: ConvergeProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  for (const image of new Set(spec.workloads.map((workload) => workload.image))) {
    const progress = ({ received, total }: { received: number; total: number }): void => {
      const percent = Math.min(99, Math.floor((received * 100) / Math.max(1, total)));
      const message = `${image}: ${received} of ${total} bytes`;
      const workloads = spec.workloads.filter((workload) => workload.image === image);
      report({
        phase: "PULLING",
        percent: 0,
        message,
        workloads: workloads.map(({ name }) => ({ workload: name, phase: "PULLING", percent, message })),
      });
    };
    await ensureImage(engine, image, { auth, progress, signal });
  }
}

/** Pulls an image that is not there. Throws IMAGE_UNAVAILABLE. */
async function ensureImage(
  engine: Engine,
  reference: string,
  { auth, progress, signal }: { auth: RegistryAuth; progress: (pulled: PullProgress) => void; signal: AbortSignal },
): Promise<void> {
  if (await has(engine, reference)) return;
  const limit = AbortSignal.any([signal, AbortSignal.timeout(pullWithinMs)]);
  const credentials = auth(registryOf(reference));
  try {
    const lines = await engine.stream("POST", "/images/create", {
      query: pullQuery(reference),
      signal: limit,
      ...(credentials === undefined
        ? {}
        : { headers: { "x-registry-auth": Buffer.from(JSON.stringify(credentials)).toString("base64url") } }),
    });
    const layers = new Map<string, PullProgress>();
    for await (const text of linesOf(lines)) {
      const line = JSON.parse(text) as PullLine;
      if (line.error !== undefined) throw refusalOf(reference, line.errorDetail?.message ?? line.error);
      const { current = 0, total = 0 } = line.progressDetail ?? {};
      if (line.id === undefined || total === 0) continue;
      layers.set(line.id, { received: current, total });
      const sum = (of: keyof PullProgress) => [...layers.values()].reduce((whole, each) => whole + each[of], 0);
      progress({ received: sum("received"), total: sum("total") });
    }
  } catch (error) {
    if (error instanceof EngineError && !limit.aborted) throw refusalOf(reference, error.message);
    if (limit.aborted) throw new Refusal("IMAGE_UNAVAILABLE", `the pull of ${reference} was called off`, true);
    throw error;
  }
  if (await has(engine, reference)) return;
  throw new Refusal("IMAGE_UNAVAILABLE", `image ${reference} is not there after its pull`, true);
}

async function has(engine: Engine, reference: string): Promise<boolean> {
  try {
    await engine.call("GET", `/images/${encodeURI(reference)}/json`);
    return true;
  } catch (error) {
    if (error instanceof EngineError && error.status === 404) return false;
    throw error;
  }
}

/** `name:tag` or `name@sha256:…`; without either `latest`, or the engine would pull all tags. */
function pullQuery(reference: string): Record<string, string> {
  const [name = "", digest] = reference.split("@");
  if (digest !== undefined) return { fromImage: name, tag: digest };
  const colon = name.lastIndexOf(":");
  if (colon <= name.lastIndexOf("/")) return { fromImage: name, tag: "latest" };
  return { fromImage: name.slice(0, colon), tag: name.slice(colon + 1) };
}

/** The host of a reference; `docker.io` where it names none. */
export function registryOf(reference: string): string {
  const [first = "", ...rest] = reference.split("/");
  return rest.length > 0 && (/[.:]/.test(first) || first === "localhost") ? first : "docker.io";
}

/** What a registry knows for sure does not change by itself; a line that is down does. */
function refusalOf(reference: string, message: string): Refusal {
  const final = /not found|does not exist|manifest unknown|invalid reference|denied|unauthorized/i.test(message);
  return new Refusal("IMAGE_UNAVAILABLE", `image ${reference}: ${message}`, !final);
}
