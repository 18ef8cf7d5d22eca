/**
 * What a file asks of the host: collected here, with its path, and allowed or
 * refused by the cluster's policy (policy.ts). Whatever reaches the host goes
 * through an ask.
 */
import { asksOfService, type AskIn, type HostFields } from "./asks.ts";
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

  /** One of the model that was read here. */
  askIn(reader: Reader, { kind, value, path, readOnly }: AskIn): void {
    const [key, next] = path;
    const parent = typeof key === "string" ? reader.child(key) : undefined;
    const place =
      typeof next === "string" && parent !== undefined ? parent.at(next) : reader.at(String(key ?? "external"));
    this.ask(kind, value, place, [...reader.path, ...path], readOnly);
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
  if (source.startsWith("~"))
    throw new Unreadable(
      `${JSON.stringify(source)} is in somebody's home folder, and an agent has none`,
      "Write the whole path of the hosts, such as /home/me/data, or use a named volume.",
    );
  if (/^[A-Za-z]:[\\/]|^\\/.test(source) || source.includes("\0"))
    throw new Unreadable(`${JSON.stringify(source)} is no absolute path of a Linux host`, "Use a named volume.");
  if (!source.startsWith("/") && projectDirectory === undefined)
    throw new Unreadable(
      `${JSON.stringify(source)} is relative, and an agent has no folder of the project`,
      "For data use a named volume; for a file that the container reads a config (configs: … file: …); else say in which folder of the hosts it is (--host-directory).",
    );
  const parts: string[] = [];
  for (const part of (source.startsWith("/") ? source : `${projectDirectory}/${source}`).split("/"))
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  return `/${parts.join("/")}`;
}

/** The fields of a service that reach out of its container, and what they ask. */
export function hostAsks<Read extends Pick<HostFields, "sysctls" | "logging">>(
  service: Reader,
  asked: Asked,
  read: Read,
): HostFields & Read {
  const cgroupParent = service.word("cgroup_parent");
  const fields = {
    ...read,
    privileged: service.flag("privileged"),
    capAdd: service.texts("cap_add").map((capability) => capability.toUpperCase().replace(/^CAP_/, "")),
    devices: readDevices(service),
    securityOptions: service.texts("security_opt"),
    ...(cgroupParent === undefined ? {} : { cgroupParent }),
    ...namespaces(service),
    ...networkMode(service),
  };
  for (const ask of asksOfService(fields)) asked.askIn(service, ask);
  return fields;
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

/** Namespaces that are not the container's own. */
function namespaces(service: Reader): Pick<Service, "pid" | "ipc" | "uts" | "userns"> {
  const found: Record<string, string> = {};
  for (const [key, field] of [
    ["pid", "pid"],
    ["ipc", "ipc"],
    ["uts", "uts"],
    ["userns_mode", "userns"],
  ] as const) {
    const value = service.word(key);
    if (value === undefined) continue;
    if (value.startsWith("service:"))
      service.error(
        "UNSUPPORTED_VALUE",
        key,
        "a namespace of another service",
        "Services may run on different hosts; use a network.",
      );
    else found[field] = value;
  }
  return found;
}

function networkMode(service: Reader): Pick<Service, "networkMode"> {
  const mode = service.word("network_mode");
  if (mode === undefined || mode === "bridge" || mode === "default") return {};
  if (mode === "none" || mode === "host" || mode.startsWith("container:")) return { networkMode: mode };
  const advice = mode.startsWith("service:")
    ? "Services may run on different hosts: attach both to a network and use the service's name."
    : "Use networks, or network_mode: none.";
  service.error("UNSUPPORTED_VALUE", "network_mode", `${JSON.stringify(mode)} is not supported`, advice);
  return {};
}
