/**
 * Workloads as processes: what the spec may ask for here, and what the process
 * is given.
 *
 *   volumes.ts   what it shares with the host    instances.ts  runs it
 *
 * Not enforced, and said so in README.md: CPU and memory limits, read-only
 * mounts of volumes, isolation between networks. Everything else that a host
 * cannot do is refused with UNSUPPORTED.
 */
import { accessSync, constants as access, statSync } from "node:fs";
import { delimiter, isAbsolute, join } from "node:path";
import {
  checkSpec,
  isJob,
  numberBehind,
  portEnvironment,
  refuseContainerOptions,
  Refusal,
  secretText,
  unsupported,
} from "@bowline/agent-core/runtimes";
import type { AssignedPort, Opened } from "@bowline/agent-core/runtimes";
import { RestartPolicy } from "@bowline/contract/deployments";
import type { Deployment, Workload, WorkloadJson } from "@bowline/contract/deployments";

/** One instance as it is to run; stored in its slot, and what a restart starts from. */
export interface Definition {
  /** Name of its folder, unique in the deployment. */
  slot: string;
  deploymentId: string;
  workload: WorkloadJson;
  /** 0-based. */
  index: number;
  /** At which it was made; it runs on through later ones that don't change it. */
  generation: number;
  digest: string;
  ports: AssignedPort[];
  /** As they came: only the process gets them in clear text. */
  sealedSecrets: Record<string, string>;
}

/** Whether its exit code decides what happens next, also after an agent restart. */
export function needsExitCode(workload: Workload): boolean {
  return (
    isJob(workload) ||
    workload.restartPolicy === RestartPolicy.ON_FAILURE ||
    workload.restartPolicy === RestartPolicy.NEVER
  );
}

/** Throws a refusal for the first thing that the spec says wrong, or that processes cannot do. */
export function checkLocalSpec(spec: Deployment): void {
  for (const workload of spec.workloads) checkCommand(workload);
  checkSpec(spec, numberBehind(spec), { forwards: true });
  refuseContainerOptions(spec);
  for (const { name, externalName, storageClass } of spec.volumes) {
    if (externalName !== "") throw unsupported(`volume ${name}: the local runtime has no external volumes`);
    if (storageClass !== "") throw unsupported(`volume ${name}: the local runtime has no storage classes`);
  }
  for (const { name, externalName, internal } of spec.networks) {
    if (externalName !== "") throw unsupported(`network ${name}: the local runtime has no external networks`);
    if (internal) throw unsupported(`network ${name}: the local runtime cannot close a network`);
  }
  for (const workload of spec.workloads) {
    const { name, mounts, environment, secrets } = workload;
    if (mounts.some(({ source }) => source.case === "hostPath"))
      throw unsupported(`workload ${name}: the local runtime mounts no paths of the host`);
    const variables = [...Object.keys(environment), ...secrets.map((secret) => secret.variable)];
    const unnamable = variables.find((variable) => !/^[A-Za-z_][A-Za-z0-9_]*$/.test(variable));
    if (needsExitCode(workload) && unnamable !== undefined) {
      throw unsupported(
        `workload ${name}: a job, or one with ON_FAILURE or NEVER, cannot get the variable ${unnamable} here`,
      );
    }
  }
}

function checkCommand({ name, command, args }: Workload): void {
  if (command.length + args.length === 0) {
    throw unsupported(`workload ${name}: the local runtime runs programs, not images; give it a command`);
  }
}

/** The process's environment; what marks it comes last, so that no spec can hide a process. */
export function environmentOf(
  workload: Workload,
  definition: Definition,
  given: {
    base: Readonly<Record<string, string>>;
    secrets: Opened;
    marks: Readonly<Record<string, string>>;
  },
): Record<string, string> {
  const secrets = workload.secrets.map(({ variable, secret }) => [variable, secretText(given.secrets, secret)]);
  const { PORT, ...ports } = portEnvironment(definition.ports);
  return {
    ...given.base,
    ...(PORT === undefined ? {} : { PORT }),
    ...workload.environment,
    ...Object.fromEntries(secrets),
    ...ports,
    ...given.marks,
  };
}

/**
 * Throws IMAGE_UNAVAILABLE if the program is not there. A relative path is
 * looked up from `workingDir`; before that folder exists (undefined) it passes.
 */
export function findProgram(workload: Workload, searchPath: string, workingDir: string | undefined): void {
  const program = workload.command[0] ?? workload.args[0] ?? "";
  const missing = (why: string): Refusal =>
    new Refusal("IMAGE_UNAVAILABLE", `workload ${workload.name}: the program ${program} ${why}`, false);
  if (program.includes("/")) {
    if (!isAbsolute(program) && workingDir === undefined) return;
    const path = isAbsolute(program) ? program : join(workingDir ?? "", program);
    if (!isProgram(path)) throw missing("is not there or may not be run");
    return;
  }
  if (!searchPath.split(delimiter).some((folder) => isProgram(join(folder, program)))) {
    throw missing(`is not installed (looked in ${searchPath})`);
  }
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, access.X_OK);
    return statSync(path).isFile();
  } catch {
    return false; // missing or forbidden: both mean that it cannot be run
  }
}
