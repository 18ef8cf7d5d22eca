/** Images: there already, or pulled, by digest where the reference has one. */
import type { ConvergeProgress, WorkloadProgress } from "@bowline/agent-core";
import { Refusal } from "@bowline/agent-core/runtimes";
import { defaultRegistry, registryOf } from "@bowline/kernel";
import { ContainerOptions_PullPolicy, type Deployment } from "@bowline/contract/deployments";
import { EngineError, linesOf, type Engine } from "./engine.ts";
import { pullCounter, sayBytes, type PullLine, type PullProgress } from "./pulls.ts";

/** A large image over a slow line; the converge's own run timeout is shorter as a rule. */
const pullWithinMs = 3_600_000;

export interface Credential {
  username: string;
  password: string;
}

/** Opens the credential of a registry; undefined: there is none. */
export type RegistryAuth = (registry: string) => Promise<Credential | undefined>;

/** One image as a spec asks for it. */
interface WantedImage {
  reference: string;
  /** `os/arch`; empty: the engine's own. */
  platform: string;
  policy: "MISSING" | "ALWAYS" | "NEVER";
  /** Names of the workloads that run it. */
  workloads: string[];
}

/**
 * Images that are not there, one after the other: the engine loads layers of one image at once. `making`: names of
 * the workloads of which a container is made; only for those a pull policy of ALWAYS counts.
 */
export async function pullAll(
  engine: Engine,
  spec: Deployment,
  making: ReadonlySet<string>,
  auth: RegistryAuth,
  report: (progress: ConvergeProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  const told = new Map<string, WorkloadProgress>();
  for (const image of imagesOf(spec, making)) {
    let toldPercent = -1;
    const progress = (pulled: PullProgress): void => {
      const percent = Math.min(99, Math.floor((pulled.received * 100) / pulled.total));
      if (percent === toldPercent) return; // a hundred reports for an image at most, though it may begin anew
      toldPercent = percent;
      const message = `${image.reference}: ${sayBytes(pulled)}`;
      for (const workload of image.workloads) told.set(workload, { workload, phase: "PULLING", percent, message });
      report({ phase: "PULLING", percent: 0, message, workloads: [...told.values()] });
    };
    await ensureImage(engine, image, { auth, progress, signal });
    for (const workload of image.workloads) {
      if (told.has(workload))
        told.set(workload, { workload, phase: "PULLING", percent: 100, message: `${image.reference}: there` });
    }
  }
}

function imagesOf(spec: Deployment, making: ReadonlySet<string>): WantedImage[] {
  const images = new Map<string, WantedImage>();
  for (const { name, image: reference, container } of spec.workloads) {
    const platform = container?.platform ?? "";
    const policy = policyOf(container?.pullPolicy, making.has(name));
    const key = `${policy} ${platform} ${reference}`;
    const known = images.get(key) ?? { reference, platform, policy, workloads: [] };
    images.set(key, { ...known, workloads: [...known.workloads, name] });
  }
  return [...images.values()];
}

function policyOf(wanted: ContainerOptions_PullPolicy | undefined, makes: boolean): WantedImage["policy"] {
  if (wanted === ContainerOptions_PullPolicy.NEVER) return "NEVER";
  return wanted === ContainerOptions_PullPolicy.ALWAYS && makes ? "ALWAYS" : "MISSING";
}

/** Pulls an image as its policy says. Throws IMAGE_UNAVAILABLE. */
async function ensureImage(
  engine: Engine,
  { reference, platform, policy }: WantedImage,
  { auth, progress, signal }: { auth: RegistryAuth; progress: (pulled: PullProgress) => void; signal: AbortSignal },
): Promise<void> {
  if (policy !== "ALWAYS" && (await has(engine, reference, platform))) return;
  if (policy === "NEVER")
    throw new Refusal(
      "IMAGE_UNAVAILABLE",
      `image ${reference}: the host does not have it, and it is never pulled`,
      false,
    );
  const limit = AbortSignal.any([signal, AbortSignal.timeout(pullWithinMs)]);
  const registry = registryOf(reference);
  const credential = await auth(registry);
  const refused = (message: string): Refusal => pullRefusal(reference, registry, credential?.username, message);
  try {
    const lines = await engine.stream("POST", "/images/create", {
      query: { ...pullQuery(reference), ...(platform === "" ? {} : { platform }) },
      signal: limit,
      ...(credential === undefined ? {} : { headers: { "x-registry-auth": authHeader(registry, credential) } }),
    });
    const count = pullCounter();
    for await (const text of linesOf(lines)) {
      const line = JSON.parse(text) as PullLine;
      if (line.error !== undefined) throw refused(line.errorDetail?.message ?? line.error);
      const pulled = count(line);
      if (pulled !== undefined) progress(pulled);
    }
  } catch (error) {
    if (error instanceof EngineError && !limit.aborted) throw refused(error.message);
    if (limit.aborted) throw new Refusal("IMAGE_UNAVAILABLE", `the pull of ${reference} was called off`, true);
    throw error;
  }
  if (await has(engine, reference, platform)) return;
  throw new Refusal("IMAGE_UNAVAILABLE", `image ${reference} is not there after its pull`, true);
}

async function has(engine: Engine, reference: string, platform: string): Promise<boolean> {
  try {
    const image = await engine.call<{ Os: string; Architecture: string }>(
      "GET",
      `/images/${encodeURI(reference)}/json`,
    );
    const [os, architecture] = platform.split("/");
    return platform === "" || (image.Os === os && image.Architecture === architecture);
  } catch (error) {
    if (error instanceof EngineError && error.status === 404) return false;
    if (error instanceof EngineError && error.status === 400)
      throw pullRefusal(reference, registryOf(reference), undefined, error.message);
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

/**
 * JSON as base64 for URLs, with its padding: without it the engine reads nothing, and says nothing. What engines call
 * docker.io is the name of an older API.
 */
function authHeader(registry: string, { username, password }: Credential): string {
  const serveraddress = registry === defaultRegistry ? "https://index.docker.io/v1/" : registry;
  const base64 = Buffer.from(JSON.stringify({ username, password, serveraddress })).toString("base64");
  return base64.replaceAll("+", "-").replaceAll("/", "_");
}

/** Why an image was not pulled; the engine tells it in words only. `username`: of the credential that was used. */
export function pullRefusal(
  reference: string,
  registry: string,
  username: string | undefined,
  message: string,
): Refusal {
  const refusal = (what: string, worthRetry: boolean): Refusal =>
    new Refusal("IMAGE_UNAVAILABLE", `image ${reference}: ${what}: ${message}`, worthRetry);
  if (/no space left/i.test(message)) return new Refusal("DISK_FULL", `image ${reference}: ${message}`, true);
  if (/invalid reference/i.test(message)) return refusal("this is no reference of an image", false);
  // What a registry knows for sure does not change by itself; a line that is down does.
  if (/unauthorized|denied|forbidden|authentication required|no basic auth credentials/i.test(message)) {
    const how =
      username === undefined
        ? `without a credential, since there is none for it (bowline registry create ${registry})`
        : `to ${username}, whose credential was used (bowline registry update ${registry})`;
    return refusal(`the registry ${registry} denied it ${how}`, false);
  }
  if (
    /not found|unknown|does not exist|no such image/i.test(message) &&
    !/unknown authority|no such host/i.test(message)
  )
    return refusal(`the registry ${registry} has no such image`, false);
  if (/dial tcp|no such host|lookup |time-?out|refused|reset|EOF|deadline exceeded|x509|TLS|HTTPS/i.test(message))
    return refusal(`the registry ${registry} is not reachable from this host`, true);
  return refusal("the pull failed", true);
}
