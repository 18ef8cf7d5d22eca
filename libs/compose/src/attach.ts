/**
 * What services say of each other and of the stack's volumes, networks, secrets
 * and configs: every name must lead somewhere.
 */
import type { Attachment, Dependency, Service, Stack } from "./model.ts";
import { mountTarget } from "./mounts.ts";
import type { Reader } from "./reader.ts";
import type { Path, Place, Report } from "./report.ts";
import { nearest } from "./suggest.ts";
import { textOf } from "./tree.ts";

/** A service as read, with the mapping that it was read from. */
export interface Attached {
  readonly service: Service;
  readonly reader: Reader;
}

/** The names that a stack declares. */
export interface Declared {
  readonly volumes: ReadonlySet<string>;
  readonly networks: ReadonlySet<string>;
  readonly secrets: ReadonlySet<string>;
  readonly configs: ReadonlySet<string>;
  /** Services of profiles that are not active. */
  readonly disabled: ReadonlySet<string>;
}

/** The services with their networks and dependencies; dangling names go to the report. */
export function attachServices(read: readonly Attached[], declared: Declared): Service[] {
  const names = new Set(read.map(({ service }) => service.name));
  const links = new Map(read.map(({ service, reader }) => [service.name, readLinks(reader, names)]));
  const aliases = new Map<string, string[]>();
  for (const found of links.values())
    for (const { service, alias } of found)
      if (alias !== service) aliases.set(service, [...(aliases.get(service) ?? []), alias]);
  const services = read.map(({ service, reader }) => {
    checkNames(service, reader, declared);
    const linked = (links.get(service.name) ?? []).map((link) => link.service);
    return {
      ...service,
      networks: networks(service, reader, declared, aliases.get(service.name) ?? []),
      dependsOn: dependencies(reader, names, declared, linked),
    };
  });
  const awaited = new Set(
    services.flatMap(({ dependsOn }) =>
      dependsOn.filter(({ condition }) => condition === "completed").map(({ service }) => service),
    ),
  );
  refuseCycles(services, read);
  return services.map((service) => (awaited.has(service.name) ? { ...service, job: true } : service));
}

function readLinks(reader: Reader, names: ReadonlySet<string>): { service: string; alias: string }[] {
  return reader.list("links").flatMap((item, index) => {
    if (item.kind !== "scalar") return [];
    const [service = "", alias = service] = textOf(item).split(":");
    if (names.has(service)) return [{ service, alias }];
    unknown(reader.report, item.at, [...reader.path, "links", index], "service", service, names);
    return [];
  });
}

function unknown(report: Report, at: Place, path: Path, kind: string, name: string, known: Iterable<string>): void {
  const meant = nearest(name, known);
  const advice = meant === undefined ? `Declare the ${kind}, or correct the name.` : `Did you mean ${meant}?`;
  report.error("REFERENCE_UNKNOWN", at, path, `there is no ${kind} ${JSON.stringify(name)}`, advice);
}

function checkNames(service: Service, reader: Reader, declared: Declared): void {
  for (const mount of service.mounts)
    if (mount.kind === "volume" && mount.volume !== "" && !declared.volumes.has(mount.volume)) {
      const index = reader.list("volumes").findIndex((entry) => mountTarget(entry) === mount.target);
      const item = reader.list("volumes")[index];
      unknown(
        reader.report,
        item?.at ?? reader.at("volumes"),
        [...reader.path, "volumes", index],
        "volume",
        mount.volume,
        declared.volumes,
      );
    }
  for (const key of ["secrets", "configs"] as const)
    for (const [index, mount] of service[key].entries())
      if (!declared[key].has(mount.source)) {
        const item = reader.list(key)[index];
        unknown(
          reader.report,
          item?.at ?? reader.at(key),
          [...reader.path, key, index],
          key.slice(0, -1),
          mount.source,
          declared[key],
        );
      }
}

function networks(service: Service, reader: Reader, declared: Declared, linked: readonly string[]): Attachment[] {
  const own = reader.child("networks");
  if (service.networkMode !== undefined || reader.word("network_mode") === "none") {
    if ((own?.mapping.entries.size ?? 0) > 0)
      reader.error(
        "CONFLICT",
        "networks",
        `network_mode is ${service.networkMode}, which has no networks`,
        "Keep one of them.",
      );
    return [];
  }
  const container = reader.word("container_name");
  const more = [...linked, ...(container === undefined || container === service.name ? [] : [container])];
  const attachments = [...reader.children("networks")].map(([network, settings]) => {
    if (network !== "default" && !declared.networks.has(network))
      unknown(
        reader.report,
        own?.at(network) ?? reader.mapping.at,
        settings.path,
        "network",
        network,
        declared.networks,
      );
    return { network, aliases: [...new Set([...settings.texts("aliases"), ...more])] };
  });
  return attachments.length > 0 ? attachments : [{ network: "default", aliases: [...new Set(more)] }];
}

const conditions = {
  service_started: "started",
  service_healthy: "healthy",
  service_completed_successfully: "completed",
} as const;

function dependencies(
  reader: Reader,
  names: ReadonlySet<string>,
  declared: Declared,
  linked: readonly string[],
): Dependency[] {
  const found = new Map<string, Dependency>(linked.map((service) => [service, { service, condition: "started" }]));
  for (const [service, settings] of reader.children("depends_on")) {
    const at = reader.child("depends_on")?.at(service) ?? reader.at("depends_on");
    const required = settings.flag("required", true);
    if (names.has(service)) {
      const condition =
        conditions[(settings.word("condition") ?? "service_started") as keyof typeof conditions] ?? "started";
      found.set(service, { service, condition });
    } else if (!required) {
      const advice = "Activate its profile to have it.";
      reader.report.warn("REFERENCE_DISABLED", at, settings.path, `${service} is not part of the stack`, advice);
    } else if (declared.disabled.has(service)) {
      const advice = `Activate a profile of ${service}, or write required: false.`;
      reader.report.error("REFERENCE_DISABLED", at, settings.path, `no active profile has ${service}`, advice);
    } else unknown(reader.report, at, settings.path, "service", service, names);
  }
  return [...found.values()].toSorted((a, b) => (a.service < b.service ? -1 : 1));
}

/** Services that wait for each other never start. */
function refuseCycles(services: readonly Service[], read: readonly Attached[]): void {
  const waits = new Map(services.map(({ name, dependsOn }) => [name, dependsOn.map(({ service }) => service)]));
  const done = new Set<string>();
  // What waits for nothing that is left can start; what is left after as many rounds waits in a circle.
  for (let round = 0; round <= services.length; round += 1) {
    const ready = [...waits].filter(([name, needs]) => !done.has(name) && needs.every((need) => done.has(need)));
    if (ready.length === 0) break;
    for (const [name] of ready) done.add(name);
  }
  const left = [...waits.keys()].filter((name) => !done.has(name));
  const first = read.find(({ service }) => service.name === left[0]);
  if (first === undefined) return;
  const circle = circleFrom(left[0] ?? "", waits, done);
  first.reader.error(
    "DEPENDENCY_CYCLE",
    "depends_on",
    `they wait for each other: ${circle.join(" → ")}`,
    "Remove one of these dependencies.",
  );
}

function circleFrom(start: string, waits: ReadonlyMap<string, readonly string[]>, done: ReadonlySet<string>): string[] {
  const way = [start];
  for (;;) {
    const next = waits.get(way.at(-1) ?? "")?.find((name) => !done.has(name)) ?? start;
    const seen = way.indexOf(next);
    if (seen >= 0) return [...way.slice(seen), next];
    way.push(next);
  }
}

/** The networks that services use: those declared, and the stack's own where one has no other. */
export function usedNetworks(services: readonly Service[], networks: Stack["networks"]): Stack["networks"] {
  const used = new Set(services.flatMap((service) => service.networks.map(({ network }) => network)));
  const own = used.has("default") && !networks.some(({ name }) => name === "default");
  return own ? [...networks, { name: "default", driver: "bridge", internal: false }] : networks;
}
