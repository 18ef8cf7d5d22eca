/** Compose files as a request brings them: read to a model, and what of it the cluster's policy refuses. */
import { create } from "@bufbuild/protobuf";
import { asksOf, checkPolicy, type Diagnostic, type ParsedStack, parseCompose, printStack } from "@bowline/compose";
import type { ClusterPolicy } from "@bowline/contract/clusters";
import {
  type ComposeFinding,
  ComposeFindingSchema,
  type ComposeSource,
  type ValidateStackRequest,
  type ValidateStackResponse,
  ValidateStackResponseSchema,
} from "@bowline/contract/stacks";
import { problem, type Reason } from "@bowline/kernel";
import { mayHave, needsOf } from "./needs.ts";
import type { StackCluster } from "./ports.ts";
import type { StackModel } from "./revisions.ts";

/** A stack without errors. */
export interface ReadSource {
  model: StackModel;
  /** Values of secrets that came with it, by the name that they have in the stack. */
  secrets: ReadonlyMap<string, Uint8Array>;
  asks: ParsedStack["asks"];
  warnings: ComposeFinding[];
}

/** Throws COMPOSE_INVALID, with a violation for each place. */
export function readSource(source: ComposeSource, name: string): ReadSource {
  const parsed = parsedOf(source, name);
  if (parsed.stack === undefined) throw refused("COMPOSE_INVALID", parsed.errors);
  return {
    model: parsed.stack,
    secrets: parsed.contents,
    asks: parsed.asks,
    warnings: parsed.warnings.map(findingOf),
  };
}

/** Throws COMPOSE_REFUSED_BY_POLICY, with a violation for each place. */
export function refuseByPolicy({ asks }: Pick<ReadSource, "asks">, policy: ClusterPolicy): void {
  const errors = policyErrors(asks, policy);
  if (errors.length > 0) throw refused("COMPOSE_REFUSED_BY_POLICY", errors);
}

/** The same for a revision that is wanted again: the policy may allow less than when it was made. */
export function refuseRevision(revision: { number: number; model: unknown }, policy: ClusterPolicy): void {
  refuseByPolicy({ asks: asksOf(revision.model as StackModel, `r${revision.number}`) }, policy);
}

/** Throws CAPABILITY_MISSING where no agent of such a cluster could ever run a service; a violation for each place. */
export function refuseByCapabilities(model: StackModel, cluster: StackCluster): void {
  const violations = model.services.flatMap((service) =>
    needsOf(model, service, false)
      .filter(({ capability }) => !mayHave(cluster, capability))
      .map(({ capability, path }) => ({
        field: path,
        description: `${path}: the service ${service.name} needs "${capability}", which no agent of the cluster ${cluster.name} can have.`,
        ...{ service: service.name, capability },
      })),
  );
  const [first] = violations;
  if (first === undefined) return;
  const more = violations.length > 1 ? ` And ${violations.length - 1} more.` : "";
  throw problem("CAPABILITY_MISSING", `${first.description}${more}`, {
    violations: violations.map(({ field, description }) => ({ field, description })),
    metadata: { service: first.service, capability: first.capability, path: first.field },
  });
}

/** Everything that is wrong, and what came out where nothing is. `policy` undefined: none is asked. */
export function validateSource(
  request: ValidateStackRequest & { source: ComposeSource },
  policy: ClusterPolicy | undefined,
): ValidateStackResponse {
  const parsed = parsedOf(request.source, request.name || undefined);
  const errors = [...parsed.errors, ...(policy === undefined ? [] : policyErrors(parsed.asks, policy))];
  return create(ValidateStackResponseSchema, {
    errors: errors.map(findingOf),
    warnings: parsed.warnings.map(findingOf),
    normalised: parsed.stack === undefined ? "" : printStack(parsed.stack),
    missing: [...parsed.missing],
  });
}

function policyErrors(asks: ParsedStack["asks"], policy: ClusterPolicy): Diagnostic[] {
  return checkPolicy(asks, {
    hostPaths: policy.allowHostPaths ? ["/", ...policy.allowedHostPaths] : policy.allowedHostPaths,
    privileged: policy.allowPrivileged,
    hostNetwork: policy.allowHostNetwork,
    hostNamespaces: policy.allowHostNamespaces,
    capabilities: policy.allowedCapabilities,
    devices: policy.allowedDevices,
    securityOptions: policy.allowedSecurityOptions,
    sysctls: policy.allowedSysctls,
    externals: policy.allowedExternals,
    drivers: policy.allowedDrivers,
    publishedPorts: policy.allowedPublishedPorts,
  });
}

/** Where no name is given, the files' own counts. */
function parsedOf(source: ComposeSource, name: string | undefined): ParsedStack {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const files = source.files.map((file) => {
    try {
      return { name: file.name, text: decoder.decode(file.content) };
    } catch {
      throw problem("COMPOSE_INVALID", `The file ${file.name} is not UTF-8.`, {
        violations: [{ field: file.name, description: "It is not UTF-8. Save it as such." }],
      });
    }
  });
  const input = {
    files,
    variables: { ...source.environment, ...(name === undefined ? {} : { COMPOSE_PROJECT_NAME: name }) },
    profiles: source.profiles,
    ...(source.hostDirectory === "" ? {} : { projectDirectory: source.hostDirectory }),
    contents: Object.fromEntries(source.referred.map((file) => [file.name, file.content])),
  };
  const parsed = parseCompose({ ...input, ...(name === undefined ? {} : { name }) });
  const nameless = name === undefined && parsed.errors.some(({ reason }) => reason === "NAME_INVALID");
  return nameless ? parseCompose({ ...input, name: "stack" }) : parsed;
}

/** As violations: what a client of any language shows. */
function refused(reason: Reason, errors: readonly Diagnostic[]) {
  const [first] = errors;
  const more = errors.length > 1 ? ` And ${errors.length - 1} more.` : "";
  return problem(reason, first === undefined ? undefined : `${lineOf(first)}${more}`, {
    violations: errors.map((error) => ({ field: placeOf(error), description: lineOf(error) })),
    metadata: { reasons: [...new Set(errors.map((error) => error.reason))].join(",") },
  });
}

function placeOf({ file, line, column, path }: Diagnostic): string {
  return `${file}${line > 0 ? `:${line}:${column}` : ""}${path === "" ? "" : ` ${path}`}`;
}

function lineOf({ path, message, advice }: Diagnostic): string {
  return `${path === "" ? "" : `${path}: `}${message}. ${advice}`;
}

function findingOf({ reason, message, advice, file, line, column, path }: Diagnostic): ComposeFinding {
  return create(ComposeFindingSchema, {
    ...{ reason, file, line, column, path },
    message: advice === "" ? message : `${message}. ${advice}`,
  });
}
