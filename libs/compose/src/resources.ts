/** Volumes, networks, secrets and configs of a merged project, read into the model. */
import { encoded } from "./contents.ts";
import type { Asked } from "./host.ts";
import { MAX_CONTENT_BYTES } from "./limits.ts";
import type { Config, Network, Secret, Volume } from "./model.ts";
import { set, type Reader } from "./reader.ts";

/** The content of files by path, as bytes. */
export type BytesOf = (path: string) => Uint8Array | undefined;

/** The name outside the stack; undefined where it is none. Says so where `name` has no effect. */
function externalName(name: string, resource: Reader, warns = true): string | undefined {
  const external = resource.child("external");
  const own = resource.word("name");
  if (external !== undefined) return external.word("name") ?? own ?? name;
  if (resource.flag("external")) return own ?? name;
  if (own !== undefined && warns)
    resource.warn(
      "VALUE_IGNORED",
      "name",
      `the name ${JSON.stringify(own)} has no effect`,
      "Use external: true for one that exists outside the stack.",
    );
  return undefined;
}

/** Named volumes. */
export function readVolumes(project: Reader, asked: Asked): Volume[] {
  return [...project.children("volumes")].map(([name, volume]) => {
    const outside = externalName(name, volume);
    const driver = volume.word("driver") ?? "local";
    const driverOptions = volume.record("driver_opts");
    if (outside !== undefined) asked.ask("external", `volume:${outside}`, volume.at("external"), volume.path);
    else if (driver !== "local")
      asked.ask("driver", `volume=${driver}`, volume.at("driver"), [...volume.path, "driver"]);
    else volumeOptions(volume, driverOptions, asked);
    return { name, ...set({ externalName: outside }), driver, driverOptions };
  });
}

/** Options of a tmpfs that stay inside it. All others of mount(8) may reach the host: `bind` makes any type a bind. */
const ownTmpfsOption = /^(|(size|mode|uid|gid|nr_inodes)=\w+%?|ro|rw|noexec|nosuid|nodev)$/;

/** A `bind` (or any device that is a path) is a path of the host; a tmpfs asks nothing; the rest is a driver. */
function volumeOptions(volume: Reader, options: Record<string, string>, asked: Asked): void {
  // Engines differ in whether they look at the case of a key; an ask does not.
  const value = (key: string) => Object.entries(options).find(([name]) => name.toLowerCase() === key)?.[1] ?? "";
  const [type, device] = [value("type"), value("device")];
  const flags = value("o")
    .split(",")
    .map((flag) => flag.trim());
  if (Object.keys(options).length === 0 || (type === "tmpfs" && flags.every((flag) => ownTmpfsOption.test(flag))))
    return;
  const at = volume.at("driver_opts");
  const path = [...volume.path, "driver_opts"];
  const binds = flags.some((flag) => flag.includes("bind")) || type === "bind";
  if (binds || (device !== "" && !/^(nfs|nfs4|cifs)$/.test(type))) {
    const absolute = asked.hostPath(device, flags.includes("ro"), at, [...path, "device"]);
    for (const key of Object.keys(options)) if (key.toLowerCase() === "device") options[key] = absolute;
  }
  if (!["none", "bind", ""].includes(type)) asked.ask("driver", `volume=local:${type}`, at, path);
}

/** Networks. */
export function readNetworks(project: Reader, asked: Asked): Network[] {
  return [...project.children("networks")].map(([name, network]) => {
    const outside = externalName(name, network);
    let driver = network.word("driver") ?? "bridge";
    if (outside === "host" || outside?.startsWith("container:") === true)
      asked.ask("host_network", outside, network.at("external"), network.path);
    if (outside !== undefined) asked.ask("external", `network:${outside}`, network.at("external"), network.path);
    else if (driver === "overlay" || driver === "default") {
      if (driver === "overlay")
        network.warn(
          "VALUE_IGNORED",
          "driver",
          "overlay counts as bridge: a network ends at its host",
          "Place services that talk by name on one host, or publish their ports.",
        );
      driver = "bridge";
    } else if (driver !== "bridge")
      asked.ask("driver", `network=${driver}`, network.at("driver"), [...network.path, "driver"]);
    return { name, ...set({ externalName: outside }), driver, internal: network.flag("internal") };
  });
}

/** What a secret or config is made of: exactly one of these. */
function originOf(resource: Reader, allowed: readonly string[]): string | undefined {
  const origins = allowed.filter((key) => {
    if (key === "external") return resource.child("external") !== undefined || resource.flag("external");
    return resource.text(key) !== undefined;
  });
  const said = allowed.join(", ");
  if (origins.length > 1)
    resource.error("CONFLICT", origins[1] ?? "", `it has ${origins.join(" and ")}`, `Keep one of ${said}.`);
  if (origins.length === 0)
    resource.report.error(
      "VALUE_INVALID",
      resource.mapping.at,
      resource.path,
      "it has no content",
      `Add one of ${said}.`,
    );
  return origins.length === 1 ? origins[0] : undefined;
}

interface Given {
  readonly variables: Readonly<Record<string, string>>;
  readonly bytesOf: BytesOf;
  /** Names that exist; undefined: whoever compiles the model looks. */
  readonly externals?: readonly string[];
}

/** The bytes that `content`, `environment` or `file` stand for. */
function bytes(resource: Reader, origin: string, given: Given): Uint8Array | undefined {
  const value = resource.text(origin) ?? "";
  if (origin === "content") return limited(resource, origin, new TextEncoder().encode(value));
  if (origin === "environment") {
    if (Object.hasOwn(given.variables, value))
      return limited(resource, origin, new TextEncoder().encode(given.variables[value]));
    resource.error(
      "VARIABLE_REQUIRED",
      origin,
      `the variable ${value} is not set`,
      "Set it in the environment that you give.",
    );
    return undefined;
  }
  const found = given.bytesOf(value);
  if (found !== undefined) return limited(resource, origin, found);
  resource.error("FILE_MISSING", origin, `the file ${value} was not given`, "Give its content with the stack.");
  return undefined;
}

function limited(resource: Reader, key: string, content: Uint8Array): Uint8Array | undefined {
  if (content.length <= MAX_CONTENT_BYTES) return content;
  resource.error(
    "TOO_LARGE",
    key,
    `more than ${MAX_CONTENT_BYTES} bytes`,
    "Put large files into an image or a volume.",
  );
  return undefined;
}

function external(name: string, resource: Reader, given: Given): { kind: "external"; name: string } {
  const outside = externalName(name, resource) ?? name;
  if (given.externals !== undefined && !given.externals.includes(outside))
    resource.error(
      "EXTERNAL_MISSING",
      "external",
      `there is no ${JSON.stringify(outside)}`,
      "Create it first, or correct its name.",
    );
  return { kind: "external", name: outside };
}

/** Secrets; their contents go beside the model (M2). */
export function readSecrets(project: Reader, given: Given, contents: Map<string, Uint8Array>): Secret[] {
  return [...project.children("secrets")].map(([name, secret]) => {
    const origin = originOf(secret, ["file", "environment", "external"]);
    if (origin === "external") return { name, source: external(name, secret, given) };
    const content = origin === undefined ? undefined : bytes(secret, origin, given);
    if (content !== undefined) contents.set(name, content);
    return { name, source: { kind: "given" } };
  });
}

/** Configs, with their contents. */
export function readConfigs(project: Reader, given: Given): Config[] {
  return [...project.children("configs")].map(([name, config]) => {
    const origin = originOf(config, ["file", "environment", "content", "external"]);
    if (origin === "external") return { name, source: external(name, config, given) };
    const content = (origin === undefined ? undefined : bytes(config, origin, given)) ?? new Uint8Array();
    return { name, source: { kind: "given", ...encoded(content) } };
  });
}
