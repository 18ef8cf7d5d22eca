/** What a spec may say about forwards and gates, whatever runs it. */
import type { Deployment, Port, Workload } from "@bowline/contract/deployments";
import { findPort, portName } from "./ports.ts";
import { invalid, Refusal } from "./refusal.ts";

const name = /^[a-z][a-z0-9-]{0,62}$/;

/** Throws SPEC_INVALID, or PORT_TAKEN where two would have one port of the host. */
export function checkForwards(spec: Deployment, hostPort: (port: Port) => number | undefined): void {
  const taken: { place: string; address: string; whose: string }[] = [];
  for (const workload of spec.workloads) {
    for (const port of workload.ports) {
      const fixed = hostPort(port);
      const whose = `${portName(port)} of ${workload.name}`;
      if (fixed !== undefined)
        taken.push({ place: `${port.protocol || "tcp"} ${fixed}`, address: port.hostAddress, whose });
    }
  }
  once(spec.forwards, "forwards");
  for (const forward of spec.forwards) {
    const protocol = forward.protocol || "tcp";
    if (forward.backends.length === 0) throw invalid(`forward ${forward.name}: it leads nowhere`);
    const seen = new Set<string>();
    for (const backend of forward.backends) {
      const workload = asked(spec, backend.workload, `forward ${forward.name}`);
      const port = findPort(workload.ports, backend.port);
      if (port === undefined || (port.protocol || "tcp") !== protocol)
        throw invalid(
          `forward ${forward.name}: ${workload.name} has no ${protocol} port ${JSON.stringify(backend.port)}`,
        );
      const place = `${workload.name}/${portName(port)}`;
      if (seen.has(place)) throw invalid(`forward ${forward.name}: it leads to ${place} twice`);
      seen.add(place);
    }
    if (forward.published === 0) continue;
    const place = `${protocol} ${forward.published}`;
    const address = forward.hostAddress;
    const other = taken.find((one) => one.place === place && overlap(one.address, address));
    if (other !== undefined)
      throw new Refusal(
        "PORT_TAKEN",
        `port ${forward.published} (forward ${forward.name}) is also ${other.whose}'s: leave one of them out`,
        false,
      );
    taken.push({ place, address, whose: `forward ${forward.name}` });
  }
}

/** Empty: the runtime's default, which may be all of them. */
function overlap(one: string, other: string): boolean {
  const all = ["", "0.0.0.0", "::"];
  return one === other || all.includes(one) || all.includes(other);
}

/** Throws SPEC_INVALID. */
export function checkGates(spec: Deployment): void {
  once(spec.gates, "gates");
  for (const { name: gate, workload: wanted, check } of spec.gates) {
    const workload = asked(spec, wanted, `gate ${gate}`);
    switch (check.case) {
      case "http":
        if (findPort(workload.ports, check.value.port) === undefined)
          throw invalid(`gate ${gate}: ${wanted} has no port ${JSON.stringify(check.value.port)}`);
        if (!/^(\/[\x21-\x7e]*)?$/.test(check.value.path))
          throw invalid(`gate ${gate}: ${JSON.stringify(check.value.path)} is not the path of a request`);
        break;
      case "exec":
        if (check.value.command.length === 0) throw invalid(`gate ${gate}: it has no command`);
        break;
      case undefined:
        throw invalid(`gate ${gate}: it asks nothing`);
      default:
        check satisfies never;
    }
  }
}

function once(named: readonly { name: string }[], what: string): void {
  const seen = new Set<string>();
  for (const one of named) {
    if (!name.test(one.name)) throw invalid(`${JSON.stringify(one.name)} is not a name for one of ${what}`);
    if (seen.has(one.name)) throw invalid(`two of ${what} are called ${JSON.stringify(one.name)}`);
    seen.add(one.name);
  }
}

/** A job is nothing that could be led to or asked: it ends. */
function asked(spec: Deployment, wanted: string, who: string): Workload {
  const workload = spec.workloads.find((one) => one.name === wanted);
  if (workload === undefined) throw invalid(`${who}: the spec has no workload ${JSON.stringify(wanted)}`);
  if (workload.runToCompletion !== undefined) throw invalid(`${who}: ${wanted} is a job`);
  return workload;
}
