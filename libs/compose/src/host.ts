/**
 * What a file asks of the host: collected here, with its path, and allowed or
 * refused by the cluster's policy (policy.ts). Whatever reaches the host goes
 * through an ask.
 */
import type { Ask, Service } from "./model.ts";
import { Unreadable } from "./unreadable.ts";
import type { Reader } from "./reader.ts";
import { pathText, type Path, type Place, type Report } from "./report.ts";

/** Collects asks. */
export class Asked {
  readonly asks: Ask[] = [];
  readonly #report: Report;

  constructor(report: Report) {
    this.#report = report;
  }

  ask(kind: Ask["kind"], value: string, place: Place, path: Path, readOnly?: boolean): void {
    const { file, line, column } = place;
    const ask: Ask = { kind, value, path: pathText(path), place: { file, line, column } };
    this.asks.push(readOnly === undefined ? ask : { ...ask, readOnly });
  }

  /** A path of the host, made absolute and plain; relative ones need the project's folder. */
  hostPath(source: string, readOnly: boolean, place: Place, path: Path, projectDirectory?: string): string {
    try {
      const absolute = absolutePath(source, projectDirectory);
      this.ask("host_path", absolute, place, path, readOnly);
      return absolute;
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      this.#report.error("HOST_PATH_RELATIVE", place, path, error.message, error.advice);
      return source;
    }
  }
}

function absolutePath(source: string, projectDirectory: string | undefined): string {
  if (/^[A-Za-z]:[\\/]|^\\/.test(source) || source.startsWith("~") || source.includes("\0"))
    throw new Unreadable(`${JSON.stringify(source)} is no absolute path of a Linux host`, "Use a named volume.");
  if (!source.startsWith("/") && projectDirectory === undefined)
    throw new Unreadable(
      `${JSON.stringify(source)} is relative, and an agent has no folder of the project`,
      "For data use a named volume; for a file that the container reads a config (configs: … file: …); else an absolute path.",
    );
  const parts: string[] = [];
  for (const part of (source.startsWith("/") ? source : `${projectDirectory}/${source}`).split("/"))
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  return `/${parts.join("/")}`;
}

/** Kernel parameters of the container's own namespaces. */
const ownSysctls = /^(net\.|kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)$|fs\.mqueue\.)/;

type HostFields = Pick<
  Service,
  | "networkMode"
  | "privileged"
  | "capAdd"
  | "devices"
  | "securityOptions"
  | "cgroupParent"
  | "cgroup"
  | "pid"
  | "ipc"
  | "uts"
  | "userns"
>;

/** The fields of a service that reach out of its container. */
export function hostAsks(service: Reader, asked: Asked): HostFields {
  const ask = (kind: Ask["kind"], key: string, value: string, index?: number) =>
    asked.ask(
      kind,
      value,
      service.at(key),
      index === undefined ? [...service.path, key] : [...service.path, key, index],
    );
  const privileged = service.flag("privileged");
  if (privileged) ask("privileged", "privileged", "privileged");
  const capAdd = service.texts("cap_add").map((capability) => capability.toUpperCase().replace(/^CAP_/, ""));
  capAdd.forEach((capability, index) => ask("capability", "cap_add", capability, index));
  const devices = readDevices(service);
  devices.forEach((device, index) => ask("device", "devices", device.split(":")[0] ?? device, index));
  const securityOptions = service.texts("security_opt");
  securityOptions.forEach((option, index) => {
    if (!/^no-new-privileges([:=]true)?$/.test(option)) ask("security_option", "security_opt", option, index);
  });
  const cgroupParent = service.word("cgroup_parent");
  if (cgroupParent !== undefined) ask("cgroup", "cgroup_parent", cgroupParent);
  const cgroup = service.word("cgroup");
  if (cgroup === "host") ask("cgroup", "cgroup", "host");
  for (const name of Object.keys(service.record("sysctls")))
    if (!ownSysctls.test(name)) asked.ask("sysctl", name, service.at("sysctls"), [...service.path, "sysctls", name]);
  return {
    privileged,
    capAdd,
    devices,
    securityOptions,
    ...(cgroupParent === undefined ? {} : { cgroupParent }),
    ...(cgroup === undefined ? {} : { cgroup }),
    ...namespaces(service, ask),
    ...networkMode(service, ask),
  };
}

/** `SOURCE:TARGET:PERMISSIONS`. */
function readDevices(service: Reader): string[] {
  return service.list("devices").flatMap((item) => {
    if (item.kind === "scalar") return [String(item.value)];
    if (item.kind !== "mapping") return [];
    const text = (key: string) => {
      const value = item.entries.get(key);
      return value?.kind === "scalar" && value.value !== null ? String(value.value) : "";
    };
    const source = text("source");
    return [`${source}:${text("target") || source}:${text("permissions") || "rwm"}`];
  });
}

type AskKey = (kind: Ask["kind"], key: string, value: string) => void;

/** Namespaces that are not the container's own. */
function namespaces(service: Reader, ask: AskKey): Pick<Service, "pid" | "ipc" | "uts" | "userns"> {
  const own: Readonly<Record<string, readonly string[]>> = { ipc: ["private", "shareable", "none"] };
  const found: Record<string, string> = {};
  for (const [key, field] of [
    ["pid", "pid"],
    ["ipc", "ipc"],
    ["uts", "uts"],
    ["userns_mode", "userns"],
  ] as const) {
    const value = service.word(key);
    if (value === undefined) continue;
    found[field] = value;
    if (value.startsWith("service:"))
      service.error(
        "UNSUPPORTED_VALUE",
        key,
        "a namespace of another service",
        "Services may run on different hosts; use a network.",
      );
    else if (!(own[key] ?? []).includes(value)) ask("host_namespace", key, `${field}=${value}`);
  }
  return found;
}

function networkMode(service: Reader, ask: AskKey): Pick<Service, "networkMode"> {
  const mode = service.word("network_mode");
  if (mode === undefined || mode === "bridge" || mode === "default") return {};
  if (mode === "none") return { networkMode: mode };
  if (mode === "host" || mode.startsWith("container:")) {
    ask("host_network", "network_mode", mode);
    return { networkMode: mode };
  }
  const advice = mode.startsWith("service:")
    ? "Services may run on different hosts: attach both to a network and use the service's name."
    : "Use networks, or network_mode: none.";
  service.error("UNSUPPORTED_VALUE", "network_mode", `${JSON.stringify(mode)} is not supported`, advice);
  return {};
}
