/** Specs as they came: their digest, and what this build cannot read in them. */
import { createHash } from "node:crypto";
import { fromBinary } from "@bufbuild/protobuf";
import { DeploymentSchema, Deployment_Desired, type Deployment } from "@bowline/contract/deployments";
import type { GoodGeneration } from "./journal.ts";

/** SHA-256, hexadecimal. */
export function digestOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** One digest over everything that runs: SHA-256 over the sorted lines `deployment generation digest`. */
export function stateDigestOf(good: readonly GoodGeneration[]): string {
  const lines = good.map(({ deploymentId, generation, digest }) => `${deploymentId} ${generation} ${digest}\n`);
  return createHash("sha256").update(lines.toSorted().join("")).digest("hex");
}

export type ReadSpec =
  | { ok: true; spec: Deployment }
  | { ok: false; reason: "SPEC_INVALID" | "UNSUPPORTED"; message: string };

/**
 * Reads a spec for one generation of one deployment. A field that this build
 * does not know is a feature that it does not have: refused, never left out in
 * silence.
 */
export function readSpec(bytes: Uint8Array, expected: { deploymentId: string; generation: number }): ReadSpec {
  const invalid = (message: string): ReadSpec => ({ ok: false, reason: "SPEC_INVALID", message });
  let spec: Deployment;
  try {
    spec = fromBinary(DeploymentSchema, bytes);
  } catch (error) {
    return invalid(`the spec cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (spec.id !== expected.deploymentId || spec.generation !== expected.generation) {
    return invalid(
      `the spec is of ${spec.id} generation ${spec.generation}, not of ${expected.deploymentId} generation ${expected.generation}`,
    );
  }
  const unknown = unknownIn(spec, "");
  if (unknown !== undefined) {
    const where = unknown === "" ? "the spec" : unknown;
    return {
      ok: false,
      reason: "UNSUPPORTED",
      message: `${where} has a field that this agent does not know; a newer agent does`,
    };
  }
  switch (spec.desired) {
    case Deployment_Desired.RUNNING:
    case Deployment_Desired.STOPPED:
    case Deployment_Desired.PAUSED:
    case Deployment_Desired.ABSENT:
      return { ok: true, spec };
    case Deployment_Desired.DESIRED_UNSPECIFIED:
      return invalid("the spec does not say what is desired");
    default:
      return {
        ok: false,
        reason: "UNSUPPORTED",
        message: `desired ${String(spec.desired)} is not known to this agent`,
      };
  }
}

/** The path of the first message with unknown fields; empty for the outermost; undefined if there is none. */
function unknownIn(value: unknown, path: string): string | undefined {
  if (typeof value !== "object" || value === null || value instanceof Uint8Array) return undefined;
  const { $unknown } = value as { $unknown?: readonly unknown[] };
  if ($unknown !== undefined && $unknown.length > 0) return path;
  for (const [key, inner] of Object.entries(value)) {
    if (key === "$unknown") continue;
    const found = unknownIn(inner, path === "" ? key : `${path}.${key}`);
    if (found !== undefined) return found;
  }
  return undefined;
}
