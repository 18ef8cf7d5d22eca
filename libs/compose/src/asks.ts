/**
 * What a stack asks of its host, told from the model: while files are read it
 * is told with its place, and later of a revision, of which only the model is left.
 *
 * A1: nothing but the model says what is asked. Both ways go through the same
 *     functions, so that a revision is never judged by less than its files were.
 */
import { ownOfContainer, rightsOfVolume } from "@bowline/kernel";
import type { Ask, Network, Port, Service, Stack, Volume } from "./model.ts";
import { pathText, type Path } from "./report.ts";

/** An ask of a service, volume or network, and where in it. */
export interface AskIn {
  readonly kind: Ask["kind"];
  readonly value: string;
  readonly path: Path;
  readonly readOnly?: boolean;
}

/** The fields of a service that reach out of its container. */
export type HostFields = Pick<
  Service,
  | "networkMode"
  | "privileged"
  | "capAdd"
  | "devices"
  | "securityOptions"
  | "cgroupParent"
  | "pid"
  | "ipc"
  | "uts"
  | "userns"
  | "sysctls"
  | "logging"
>;

export function asksOfService(service: HostFields): AskIn[] {
  const { privileged, capAdd, devices, securityOptions, cgroupParent, networkMode, sysctls, logging } = service;
  const { pid, ipc, uts, userns } = service;
  const found: AskIn[] = [];
  const ask = (kind: Ask["kind"], value: string, ...path: Path) => found.push({ kind, value, path });
  if (privileged) ask("privileged", "privileged", "privileged");
  for (const [index, capability] of capAdd.entries()) ask("capability", capability, "cap_add", index);
  for (const [index, device] of devices.entries()) ask("device", device.split(":")[0] ?? device, "devices", index);
  for (const [index, option] of securityOptions.entries())
    if (!ownOfContainer.securityOption(option)) ask("security_option", option, "security_opt", index);
  if (cgroupParent !== undefined) ask("cgroup", cgroupParent, "cgroup_parent");
  for (const name of Object.keys(sysctls)) if (!ownOfContainer.sysctl(name)) ask("sysctl", name, "sysctls", name);
  if (pid !== undefined) ask("host_namespace", `pid=${pid}`, "pid");
  if (ipc !== undefined && !ownOfContainer.ipcMode(ipc)) ask("host_namespace", `ipc=${ipc}`, "ipc");
  if (uts !== undefined) ask("host_namespace", `uts=${uts}`, "uts");
  if (userns !== undefined) ask("host_namespace", `userns=${userns}`, "userns_mode");
  if (networkMode !== undefined && networkMode !== "none") ask("host_network", networkMode, "network_mode");
  const driver = logging?.driver ?? "";
  if (!ownOfContainer.logDriver(driver)) ask("driver", `logging=${driver}`, "logging", "driver");
  return found;
}

/** As a published port is asked for; 0: any that is free. */
export function portAsked({ published, protocol }: Pick<Port, "published" | "protocol">): string {
  return `${published}/${protocol}`;
}

/** A `bind` (or any device that is a path) is a path of the host; a tmpfs asks nothing; the rest is a driver. */
export function asksOfVolume({ externalName, driver, driverOptions }: Omit<Volume, "name">): AskIn[] {
  if (externalName !== undefined) return [{ kind: "external", value: `volume:${externalName}`, path: [] }];
  if (driver !== "local") return [{ kind: "driver", value: `volume=${driver}`, path: ["driver"] }];
  const wanted = rightsOfVolume(driver, driverOptions);
  const readOnly = (driverOptions["o"] ?? "").split(",").some((flag) => flag.trim() === "ro");
  return wanted.flatMap(({ right, value }): AskIn[] => {
    if (right === "drivers") return [{ kind: "driver", value: `volume=${value}`, path: ["driver_opts"] }];
    // Without a device another type mounts what its driver says.
    if (value === "" && wanted.length > 1) return [];
    return [{ kind: "host_path", value, path: ["driver_opts", "device"], readOnly }];
  });
}

export function asksOfNetwork({ externalName, driver }: Omit<Network, "name" | "internal">): AskIn[] {
  if (externalName === undefined)
    return driver === "bridge" ? [] : [{ kind: "driver", value: `network=${driver}`, path: ["driver"] }];
  const external: AskIn = { kind: "external", value: `network:${externalName}`, path: [] };
  const isHost = externalName === "host" || externalName.startsWith("container:");
  return isHost ? [{ kind: "host_network", value: externalName, path: [] }, external] : [external];
}

/** All that a stack asks, in this file's name: of lines nothing is known any more. */
export function asksOf({ services, volumes, networks }: Stack, file: string): Ask[] {
  const place = { file, line: 0, column: 0 };
  const under =
    (...parent: Path) =>
    ({ path, ...ask }: AskIn): Ask => ({
      ...ask,
      path: pathText([...parent, ...path]),
      place,
    });
  return [
    ...services.flatMap((service) => {
      const ports = service.ports.map((port, index): AskIn => ({
        kind: "published_port",
        value: portAsked(port),
        path: ["ports", index],
      }));
      const binds = service.mounts.flatMap((mount, index): AskIn[] =>
        mount.kind === "bind"
          ? [{ kind: "host_path", value: mount.source, path: ["volumes", index], readOnly: mount.readOnly }]
          : [],
      );
      return [...asksOfService(service), ...ports, ...binds].map(under("services", service.name));
    }),
    ...volumes.flatMap((volume) => asksOfVolume(volume).map(under("volumes", volume.name))),
    ...networks.flatMap((network) => asksOfNetwork(network).map(under("networks", network.name))),
  ];
}
