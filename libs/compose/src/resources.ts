/** Volumes, networks, secrets and configs of a merged project, read into the model. */
import { asksOfNetwork, asksOfVolume } from "./asks.ts";
import { encoded } from "./contents.ts";
import type { Asked } from "./host.ts";
import { MAX_CONTENT_BYTES, MAX_CONTENTS_BYTES } from "./limits.ts";
import type { Config, Network, Secret, Volume } from "./model.ts";
import { set, type Reader } from "./reader.ts";
import { asksNothing } from "./support-check.ts";

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
    const read = { name, ...set({ externalName: outside }), driver, driverOptions };
    if (outside === undefined && driver === "local") refuseSpellings(volume, driverOptions);
    for (const ask of asksOfVolume(read))
      if (ask.kind !== "host_path") asked.askIn(volume, ask);
      else {
        const path = [...volume.path, ...ask.path];
        const absolute = asked.hostPath(ask.value, ask.readOnly ?? false, volume.at("driver_opts"), path);
        if (driverOptions["device"] === ask.value) driverOptions["device"] = absolute;
      }
    return read;
  });
}

/** Engines differ in what they make of them. */
function refuseSpellings(volume: Reader, options: Record<string, string>): void {
  for (const key of Object.keys(options))
    if (key !== key.toLowerCase())
      volume.report.error(
        "VALUE_INVALID",
        volume.at("driver_opts"),
        [...volume.path, "driver_opts", key],
        `the driver local has no option ${JSON.stringify(key)}`,
        "Write it in lower case.",
      );
}

/** Networks. */
export function readNetworks(project: Reader, asked: Asked): Network[] {
  return [...project.children("networks")].map(([name, network]) => {
    const outside = externalName(name, network);
    let driver = network.word("driver") ?? "bridge";
    if (outside === undefined && (driver === "overlay" || driver === "default")) {
      if (driver === "overlay")
        network.warn(
          "VALUE_IGNORED",
          "driver",
          "overlay counts as bridge: a network ends at its host",
          "Place services that talk by name on one host, or publish their ports.",
        );
      driver = "bridge";
    }
    const read = { name, ...set({ externalName: outside }), driver, internal: network.flag("internal") };
    for (const ask of asksOfNetwork(read)) asked.askIn(network, ask);
    return read;
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
  /** Bytes of all contents so far. */
  readonly spent: { contents: number };
}

/** The bytes that `content`, `environment` or `file` stand for. */
function bytes(resource: Reader, origin: string, given: Given): Uint8Array | undefined {
  const value = resource.text(origin) ?? "";
  if (origin === "content") return limited(resource, origin, new TextEncoder().encode(value), given);
  if (origin === "environment") {
    if (Object.hasOwn(given.variables, value))
      return limited(resource, origin, new TextEncoder().encode(given.variables[value]), given);
    resource.error(
      "VARIABLE_REQUIRED",
      origin,
      `the variable ${value} is not set`,
      "Set it in the environment that you give.",
    );
    return undefined;
  }
  const found = given.bytesOf(value);
  if (found !== undefined) return limited(resource, origin, found, given);
  resource.error("FILE_MISSING", origin, `the file ${value} was not given`, "Give its content with the stack.");
  return undefined;
}

function limited(resource: Reader, key: string, content: Uint8Array, { spent }: Given): Uint8Array | undefined {
  spent.contents += content.length;
  if (spent.contents > MAX_CONTENTS_BYTES) {
    const message = `more than ${MAX_CONTENTS_BYTES} bytes of configs and secrets`;
    const advice = "Name a file in one config that all services use.";
    resource.report.stop("TOO_LARGE", resource.at(key), [...resource.path, key], message, advice);
  }
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

const contentKeys = ["file", "environment", "content"];

/** Configs, with their contents. One from outside is refused (support.ts): there is nowhere to take it from. */
export function readConfigs(project: Reader, given: Given): Config[] {
  return [...project.children("configs")].map(([name, config]) => {
    const outside = config.mapping.entries.get("external");
    const isRefused = outside !== undefined && !asksNothing(outside);
    const origin = isRefused ? undefined : originOf(config, contentKeys);
    const content = (origin === undefined ? undefined : bytes(config, origin, given)) ?? new Uint8Array();
    return { name, source: { kind: "given", ...encoded(content) } };
  });
}
