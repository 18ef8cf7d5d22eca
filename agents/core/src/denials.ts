/**
 * What this host's owner denies the agent (`--deny`), whatever the cluster's policy allows.
 *
 * G1: a spec that needs what is denied is refused whole and for good, before the runtime sees it; one that takes away
 *     (ABSENT, STOPPED) never is. What ran before stays as it is.
 * G2: it is kept here, whatever a server does; that the server hears of it (`denies/…`) only saves placement an attempt.
 */
import { Deployment_Desired, type Deployment } from "@bowline/contract/deployments";
import { deniedCapabilities, type HostRight, rightsOfContainer, rightsOfVolume } from "@bowline/kernel";
import type { ConvergeEnd, ExecOutput, Runtime } from "./runtime.ts";

/** A runtime that keeps to what is denied. */
export function withDenials(runtime: Runtime, denied: ReadonlySet<HostRight>): Runtime {
  if (denied.size === 0) return runtime;
  return {
    async describe() {
      const described = await runtime.describe();
      const capabilities = described.capabilities.filter((name) => !(denied as ReadonlySet<string>).has(name));
      return { ...described, capabilities: [...capabilities, ...deniedCapabilities(denied)] };
    },
    converge(spec, report, signal) {
      const refused = refusalOf(spec, denied);
      return refused === undefined ? runtime.converge(spec, report, signal) : Promise.resolve(refused);
    },
    list: () => runtime.list(),
    watch: (changed, signal) => runtime.watch(changed, signal),
    upstream: (deploymentId, workload, port) => runtime.upstream(deploymentId, workload, port),
    volumePath: (deploymentId, volume) => runtime.volumePath(deploymentId, volume),
    logs: (...asked) => runtime.logs(...asked),
    exec: (...asked) => (denied.has("exec") ? refusedExec() : runtime.exec(...asked)),
    ...foreignOf(runtime, denied),
    close: (options) => runtime.close(options),
  };
}

async function* refusedExec(): AsyncGenerator<ExecOutput> {
  const message = "the owner of its host denies programs that people run in instances (--deny exec)";
  yield { kind: "refused", reason: "DENIED_BY_HOST", message };
}

function foreignOf(runtime: Runtime, denied: ReadonlySet<HostRight>): Pick<Runtime, "foreignContainers"> {
  const list = runtime.foreignContainers?.bind(runtime);
  if (list === undefined) return {};
  const message = "the owner of its host denies the list of others' containers (--deny foreign-containers)";
  const refused = { kind: "refused", reason: "DENIED_BY_HOST", message } as const;
  return {
    foreignContainers: (signal) => (denied.has("foreign-containers") ? Promise.resolve(refused) : list(signal)),
  };
}

/** G1. Undefined: nothing of it is denied. */
function refusalOf(spec: Deployment, denied: ReadonlySet<HostRight>): ConvergeEnd | undefined {
  if (spec.desired === Deployment_Desired.ABSENT || spec.desired === Deployment_Desired.STOPPED) return undefined;
  const wanted = wantedBy(spec).filter(({ right }) => denied.has(right));
  const [first] = wanted;
  if (first === undefined) return undefined;
  const rights = [...new Set(wanted.map(({ right }) => right))].join(",");
  const more = wanted.length > 1 ? ` (and ${wanted.length - 1} more)` : "";
  const message = `${first.where} wants ${first.value}${more}, which the owner of this host denies (--deny ${rights}); nothing was changed`;
  return { kind: "failed", reason: "DENIED_BY_HOST", message, worthRetry: false };
}

interface Wanted {
  right: HostRight;
  /** For people. */
  where: string;
  value: string;
}

/** All that a spec wants of its host beyond the ordinary. */
function wantedBy(spec: Deployment): Wanted[] {
  const found: Wanted[] = [];
  for (const { name, container, mounts, ports } of spec.workloads) {
    const where = `workload ${name}`;
    for (const { right, field, value } of rightsOfContainer(container ?? {}))
      found.push({ right, where, value: value === field ? `to be ${value}` : `${field} ${value}` });
    for (const { source } of mounts)
      if (source.case === "hostPath") found.push({ right: "host-paths", where, value: `the host's ${source.value}` });
    for (const port of ports)
      if (port.published !== undefined)
        found.push({ right: "published-ports", where, value: portText(port.published) });
  }
  for (const { name, published } of spec.forwards)
    found.push({ right: "published-ports", where: `forward ${name}`, value: portText(published) });
  for (const { name, externalName, driver } of spec.networks) {
    const where = `network ${name}`;
    if (externalName === "host" || externalName.startsWith("container:"))
      found.push({ right: "host-network", where, value: externalName });
    else if (externalName !== "") found.push({ right: "externals", where, value: `the host's ${externalName}` });
    if (!["", "bridge"].includes(driver)) found.push({ right: "drivers", where, value: `driver ${driver}` });
  }
  for (const { name, externalName, driver, driverOptions } of spec.volumes) {
    const where = `volume ${name}`;
    if (externalName !== "") found.push({ right: "externals", where, value: `the host's ${externalName}` });
    else
      for (const { right, value } of rightsOfVolume(driver, driverOptions))
        found.push({ right, where, value: right === "drivers" ? `driver ${value}` : `the host's ${value}` });
  }
  return found;
}

function portText(published: number): string {
  return published === 0 ? "a port of the host" : `the host's port ${published}`;
}
