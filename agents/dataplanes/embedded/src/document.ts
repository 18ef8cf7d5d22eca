/**
 * What the adapter hands to the data plane, over the admin port and as a file
 * that a restarted data plane loads by itself.
 *
 * In the volume `config`:
 *   admin-token                 written by the data plane at its first start, mode 0600
 *   routes/<deployment>.json    written by the adapter: the last good generation
 */
import { fromJson, toJson, type JsonValue } from "@bufbuild/protobuf";
import { RoutesSchema, type Routes } from "@bowline/contract/deployments";

/** Grows when a data plane of this version could misread a document. */
const format = 1;

/** Name of the workload that `compile` adds to the data plane's deployment. */
export const workloadName = "data-plane";
/** Its volume, and where that is inside. */
export const configVolume = "config";
/** Name of its admin port. No listener may have it. */
export const adminPortName = "bowline-admin";

export const tokenFile = "admin-token";
export const routesFolder = "routes";

/** No tenant's route is asked for what lies below it. */
export const reservedPrefix = "/.well-known/bowline/";

/** Answers, on every listener, `{deploymentId, generation}` of what is served now; 404 for what is not. */
export function probePath(deploymentId: string): string {
  return `${reservedPrefix}probe/${deploymentId}`;
}

/** Routes of one deployment at one generation, as the data plane takes them. */
export interface AttachedDocument {
  deploymentId: string;
  generation: number;
  routes: Routes;
  /** Values of the secrets that its backends name. The file that holds them has mode 0600. */
  secrets?: Readonly<Record<string, string>>;
}

/** What a data plane says about itself on `GET /status`. */
export interface DataPlaneStatus {
  version: string;
  startedAt: string;
  listeners: readonly ListenerStatus[];
  /** By deployment id: what is served, and since the start of the process how much. */
  attached: readonly AttachedStatus[];
}

export interface ListenerStatus {
  name: string;
  address: string;
  port: number;
  state: "LISTENING" | "PORT_TAKEN" | "FAILED" | "CLOSED";
  /** Empty, or why it does not listen. */
  problem: string;
}

export interface AttachedStatus {
  deploymentId: string;
  generation: number;
  requests: number;
  inFlight: number;
  /** Answers by the first digit of their status, `2xx` and so on. */
  answers: Record<string, number>;
}

/** Ids name files: letters, digits, `_`, `-` and `.`, not at the start. */
const safeId = /^[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}$/;

export function isSafeId(id: string): boolean {
  return safeId.test(id);
}

export function writeDocument(document: AttachedDocument): string {
  const { deploymentId, generation, routes, secrets = {} } = document;
  return JSON.stringify({ format, deploymentId, generation, routes: toJson(RoutesSchema, routes), secrets });
}

/** Throws an Error that says what is wrong. Unknown fields are wrong: nothing is approximated in silence. */
export function readDocument(text: string): AttachedDocument {
  const value: unknown = JSON.parse(text);
  if (typeof value !== "object" || value === null) throw new Error("not an object");
  const { format: found, deploymentId, generation, routes, secrets = {} } = value as Record<string, unknown>;
  if (found !== format) throw new Error(`format ${String(found)} is not ${format}`);
  if (typeof deploymentId !== "string" || !isSafeId(deploymentId)) throw new Error("deploymentId is not an id");
  if (typeof generation !== "number" || !Number.isSafeInteger(generation) || generation < 0) {
    throw new Error("generation is not a whole number");
  }
  if (!isTexts(secrets)) throw new Error("secrets are not texts by name");
  return { deploymentId, generation, secrets, routes: fromJson(RoutesSchema, routes as JsonValue) };
}

function isTexts(value: unknown): value is Record<string, string> {
  return typeof value === "object" && value !== null && Object.values(value).every((one) => typeof one === "string");
}
