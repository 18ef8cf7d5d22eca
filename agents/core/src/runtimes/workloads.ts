/**
 * What every runtime asks of a spec, and when two definitions are the same.
 *
 *   order.ts  plan.ts  rollout.ts   what is done with it
 */
import { createHash, createHmac } from "node:crypto";
import { constants } from "node:os";
import { posix } from "node:path";
import { toJson } from "@bufbuild/protobuf";
import type { Duration } from "@bufbuild/protobuf/wkt";
import { WorkloadSchema } from "@bowline/contract/deployments";
import type { Deployment, Port, Workload } from "@bowline/contract/deployments";
import { checkForwards, checkGates } from "./side-by-side.ts";
import type { Opened } from "./secrets.ts";
import { findPort, portName } from "./ports.ts";
import { invalid, Refusal, unsupported } from "./refusal.ts";

/** Time between the stop signal and SIGKILL where the spec says none; what Docker and the contract say. */
const defaultStopGraceMs = 10_000;

export function instanceCount(workload: Workload): number {
  return workload.count ?? 1;
}

export function isJob(workload: Workload): boolean {
  return workload.runToCompletion !== undefined;
}

/** Undefined for an unset duration. */
export function milliseconds(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : Number(duration.seconds) * 1000 + duration.nanos / 1_000_000;
}

export function stopSignal(workload: Workload): NodeJS.Signals {
  return parseSignal(workload.stopSignal) ?? "SIGTERM";
}

export function stopGraceMs(workload: Workload): number {
  return milliseconds(workload.stopGrace) ?? defaultStopGraceMs;
}

/** Whether it can name a folder: an id is a path before anything else looks at it. */
export function isDeploymentId(id: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$/.test(id);
}

/** What a runtime does, beyond what all do. */
interface Abilities {
  forwards: boolean;
  /** Mounts a volume also below another one. */
  volumesInVolumes?: boolean;
}

/** Throws a refusal for the first thing that the spec says wrong, whatever runs it. `can`: what this runtime does. */
export function checkSpec(spec: Deployment, hostPort: (port: Port) => number | undefined, can: Abilities): void {
  unique(
    "workload",
    spec.workloads.map((workload) => workload.name),
  );
  unique(
    "volume",
    spec.volumes.map((volume) => volume.name),
  );
  unique(
    "file",
    spec.files.map((file) => file.name),
  );
  for (const volume of spec.volumes) {
    if (!/^[a-z][a-z0-9-]{0,62}$/.test(volume.name))
      throw invalid(`${JSON.stringify(volume.name)} is not a volume's name`);
  }
  for (const workload of spec.workloads) checkWorkload(workload, spec, hostPort, can);
  if (spec.forwards.length > 0 && !can.forwards) throw unsupported("forwards: this agent passes no ports on");
  checkForwards(spec, hostPort);
  checkGates(spec);
}

/** Names of the secrets that a workload needs: as variables, and as files that it mounts. */
export function secretNamesOf(workload: Workload, spec: Pick<Deployment, "files">): string[] {
  const mounted = workload.mounts.flatMap(({ source }) => {
    const file = source.case === "file" ? spec.files.find(({ name }) => name === source.value) : undefined;
    return file === undefined || file.secret === "" ? [] : [file.secret];
  });
  return [...new Set([...workload.secrets.map(({ secret }) => secret), ...mounted])];
}

/** For a runtime that has processes, not containers: what it lacks is refused, never approximated. */
export function refuseContainerOptions(spec: Deployment): void {
  for (const workload of spec.workloads) {
    if (workload.container !== undefined)
      throw unsupported(`workload ${workload.name}: this agent does not have container options`);
    if (workload.healthCheck?.disabled === true)
      throw unsupported(`workload ${workload.name}: this agent cannot switch an image's own health check off`);
    if (workload.mounts.some(({ source }) => source.case === "tmpfs"))
      throw unsupported(`workload ${workload.name}: this agent mounts no file system in memory`);
  }
  const file = spec.files.find((one) => one.uid !== "" || one.gid !== "");
  if (file !== undefined) throw unsupported(`file ${file.name}: this agent has no files of other users`);
  const driven =
    spec.volumes.find((one) => one.driver !== "" || Object.keys(one.driverOptions).length > 0) ??
    spec.networks.find((one) => one.driver !== "");
  if (driven !== undefined) throw unsupported(`${driven.name}: this agent has no drivers of volumes and networks`);
}

function checkWorkload(
  workload: Workload,
  spec: Deployment,
  hostPort: (port: Port) => number | undefined,
  can: Abilities,
): void {
  const { name } = workload;
  if (!/^[a-z][a-z0-9-]{0,62}$/.test(name)) throw invalid(`${JSON.stringify(name)} is not a workload's name`);
  if (parseSignal(workload.stopSignal) === undefined)
    throw invalid(`workload ${name}: ${workload.stopSignal} is not a signal`);
  unique(`port of ${name}`, workload.ports.map(portName));
  const fixed = workload.ports.find((port) => hostPort(port) !== undefined);
  if (fixed !== undefined && instanceCount(workload) > 1) {
    throw new Refusal(
      "PORT_TAKEN",
      `port ${hostPort(fixed)} (${portName(fixed)} of ${name}): ${instanceCount(workload)} instances cannot share it; publish 0`,
      false,
    );
  }
  const variables = [...Object.keys(workload.environment), ...workload.secrets.map((secret) => secret.variable)];
  for (const variable of variables) {
    if (variable === "" || /[=\0]/.test(variable))
      throw invalid(`workload ${name}: ${JSON.stringify(variable)} is not a variable`);
  }
  const texts = [...workload.command, ...workload.args, ...Object.values(workload.environment), workload.workingDir];
  if (texts.some((text) => text.includes("\0")))
    throw invalid(`workload ${name}: a NUL in command, environment or folder`);
  for (const secret of secretNamesOf(workload, spec)) {
    if (spec.sealedSecrets[secret] === undefined) throw invalid(`workload ${name}: no secret ${secret} in the spec`);
  }
  checkMounts(workload, spec, can);
  const probe = workload.healthCheck?.probe;
  if (probe?.case === "http" || probe?.case === "tcp") {
    if (findPort(workload.ports, probe.value.port) === undefined)
      throw invalid(`workload ${name}: its health check names no port of it`);
    if (probe.case === "http" && !/^(\/[\x21-\x7e]*)?$/.test(probe.value.path)) {
      throw invalid(`workload ${name}: ${JSON.stringify(probe.value.path)} is not the path of a request`);
    }
  } else if (probe?.case === "exec" && probe.value.command.length === 0) {
    throw invalid(`workload ${name}: its health check has no command`);
  }
}

function checkMounts(workload: Workload, spec: Deployment, { volumesInVolumes = false }: Abilities): void {
  const targets: { path: string; isVolume: boolean }[] = [];
  for (const mount of workload.mounts) {
    const { source } = mount;
    if (source.case === "hostPath" || source.case === "tmpfs") continue; // whether it may is for each runtime to say
    const known =
      source.case === "volume"
        ? spec.volumes.some((volume) => volume.name === source.value)
        : spec.files.some((file) => file.name === source.value);
    if (!known)
      throw invalid(
        `workload ${workload.name}: it mounts ${source.case ?? "nothing"} ${source.value}, which the spec does not have`,
      );
    const target = mountTarget(mount.path);
    if (target === undefined)
      throw invalid(`workload ${workload.name}: ${JSON.stringify(mount.path)} is not a path inside`);
    const isVolume = source.case === "volume";
    const other = targets.find(({ path, isVolume: isOne }) => {
      if (volumesInVolumes && isVolume && isOne) return path === target;
      return `${target}/`.startsWith(`${path}/`) || `${path}/`.startsWith(`${target}/`);
    });
    if (other !== undefined)
      throw unsupported(`workload ${workload.name}: mounts inside one another (/${other.path}, /${target})`);
    targets.push({ path: target, isVolume });
  }
}

function unique(what: string, names: readonly string[]): void {
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined) throw invalid(`two of ${what} are called ${JSON.stringify(twice)}`);
}

/** `""`, `TERM`, `SIGTERM` or a number; undefined if it is no signal. */
function parseSignal(text: string): NodeJS.Signals | undefined {
  if (text === "") return "SIGTERM";
  const wanted = text.toUpperCase();
  const entry = Object.entries(constants.signals).find(
    ([name, number]) => name === wanted || name === `SIG${wanted}` || String(number) === text,
  );
  return entry?.[0] as NodeJS.Signals | undefined;
}

/**
 * Equal for two specs that make the same process: everything about the
 * workload, the files that it mounts, its secrets and `context`; not how many there are,
 * what they wait for, how they are replaced, or what people call it. `secrets` are in clear text, by name.
 */
export function digestOf(workload: Workload, spec: Deployment, secrets: Opened, key: string, context: unknown): string {
  const all = toJson(WorkloadSchema, workload);
  const { count: _count, dependsOn: _dependsOn, update: _update, service: _service, ...json } = all;
  const files = workload.mounts.map(({ source }) => {
    const file = source.case === "file" ? spec.files.find(({ name }) => name === source.value) : undefined;
    if (file === undefined) return "";
    const about = [file.mode, file.uid, file.gid, file.secret].join(":");
    return `${about}:${createHash("sha256").update(file.content).digest("hex")}`;
  });
  const sealed = secretNamesOf(workload, spec).map((secret) =>
    createHmac("sha256", key)
      .update(secrets[secret] ?? "")
      .digest("hex"),
  );
  return createHash("sha256").update(canonical({ json, files, sealed, context })).digest("hex");
}

/** JSON with sorted keys. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  const entries = Object.entries(value).filter(([, inner]) => inner !== undefined);
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([name, inner]) => `${JSON.stringify(name)}:${canonical(inner)}`).join(",")}}`;
}

/** A mount's path relative to the instance's folder or root; undefined if it leaves it or is it. */
export function mountTarget(path: string): string | undefined {
  if (path.includes("\0") || path.split("/").includes("..")) return undefined;
  const target = posix.normalize(path).replace(/^\/+/, "").replace(/\/+$/, "");
  return target === "" || target === "." ? undefined : target;
}
