/** One service of a merged project, read into the model. */
import { portAsked } from "./asks.ts";
import { readDeploy } from "./deploy.ts";
import { readHealthcheck } from "./health.ts";
import { fileMounts, readFiles, type Surroundings } from "./files.ts";
import { hostAsks, type Asked } from "./host.ts";
import { MAX_ENVIRONMENT_CHARS } from "./limits.ts";
import type { Exposed, Port, Service } from "./model.ts";
import { portRange, readPorts } from "./ports.ts";
import { Unreadable } from "./unreadable.ts";
import { set, sorted, type Reader } from "./reader.ts";
import { textOf, type Tree } from "./tree.ts";
import { durationMs, integer, sizeBytes } from "./units.ts";
import { words } from "./words.ts";

/** Reads one service. What it asks of the host goes to `asked`. */
export function readService(name: string, service: Reader, around: Surroundings, asked: Asked): Service {
  const image = service.word("image");
  if (image === undefined && !service.mapping.entries.has("build")) {
    const advice = "Add image, such as image: nginx:1.29.";
    service.report.error("IMAGE_MISSING", service.mapping.at, service.path, "the service has no image", advice);
  } else if (image !== undefined && !/^[\w][\w.\-/:@]{0,511}$/.test(image))
    service.error(
      "VALUE_INVALID",
      "image",
      `${JSON.stringify(image)} is no image`,
      "Write [REGISTRY/]NAME[:TAG][@DIGEST].",
    );
  return {
    name,
    image: image ?? "",
    ...set({
      platform: service.word("platform"),
      pullPolicy: pullPolicy(service),
      entrypoint: commandOf(service, "entrypoint"),
      command: commandOf(service, "command"),
      healthcheck: readHealthcheck(service),
      stopSignal: service.word("stop_signal"),
      stopGraceMs: service.value("stop_grace_period", durationMs),
      user: service.word("user"),
      workingDir: service.word("working_dir"),
      hostname: service.word("hostname"),
      domainname: service.word("domainname"),
      shmBytes: service.value("shm_size", sizeBytes),
    }),
    environment: environment(service, around),
    ports: ports(service, asked),
    expose: exposed(service),
    secrets: fileMounts(service, "secrets"),
    ...readFiles(service, around, asked),
    networks: [], // with aliases of links, which other services name: attach.ts
    dependsOn: [],
    ...readDeploy(service),
    labels: labels(service),
    groups: service.texts("group_add"),
    readOnly: service.flag("read_only"),
    init: service.flag("init"),
    tty: service.flag("tty"),
    stdinOpen: service.flag("stdin_open"),
    extraHosts: extraHosts(service),
    dns: service.texts("dns"),
    dnsSearch: service.texts("dns_search"),
    dnsOptions: service.texts("dns_opt"),
    ulimits: ulimits(service),
    capDrop: service.texts("cap_drop").map((capability) => capability.toUpperCase()),
    ...hostAsks(service, asked, { ...set({ logging: logging(service) }), sysctls: service.record("sysctls") }),
  };
}

/** Those by which the agents know what is theirs are not for people to write. */
function labels(service: Reader): Record<string, string> {
  const own = service.child("labels");
  for (const name of own?.mapping.entries.keys() ?? [])
    if (name.startsWith("bowline."))
      own?.error("NAME_INVALID", name, `labels that begin with "bowline." are Bowline's own`, "Give it another name.");
  return service.record("labels");
}

function pullPolicy(service: Reader): Service["pullPolicy"] {
  const policy = service.word("pull_policy");
  if (policy === undefined || policy === "always" || policy === "never" || policy === "missing") return policy;
  if (policy !== "if_not_present")
    service.warn("VALUE_IGNORED", "pull_policy", `${policy} counts as missing`, "Use always, never or missing.");
  return "missing";
}

/** A string is split as a shell splits words. An empty one clears the image's own. */
function commandOf(service: Reader, key: "command" | "entrypoint"): readonly string[] | undefined {
  const value = service.mapping.entries.get(key);
  if (value === undefined) return undefined;
  if (value.kind === "sequence") return service.texts(key);
  if (value.kind !== "scalar" || value.value === null) return undefined;
  return service.attempt(key, value.at, () => words(textOf(value)));
}

function environment(service: Reader, around: Surroundings): Record<string, string> {
  const found = new Map<string, string>();
  /** Before it is copied: what is too much costs nothing. */
  const charge = (key: string, chars: number) => {
    around.spent.environment += chars;
    if (around.spent.environment <= MAX_ENVIRONMENT_CHARS) return;
    const message = `more than ${MAX_ENVIRONMENT_CHARS} characters of all services' environments`;
    const advice = "Give large values as configs, or name an env file in fewer services.";
    service.report.stop("TOO_LARGE", service.at(key), [...service.path, key], message, advice);
  };
  for (const [index, item] of service.list("env_file").entries()) {
    const file = envFile(service, item, index, around);
    let chars = 0;
    for (const [name, value] of file) chars += name.length + value.length + 2; // with the = and the line's end
    charge("env_file", chars);
    for (const [name, value] of file) found.set(name, value);
  }
  const own = service.child("environment");
  const unset: string[] = [];
  for (const [name, value] of own?.mapping.entries ?? []) {
    if (value.kind !== "scalar") continue;
    if (!/^[^=\0\s]+$/.test(name))
      own?.error("VALUE_INVALID", name, `${JSON.stringify(name)} is no name of a variable`, "Write NAME=value.");
    if (value.value !== null) found.set(name, textOf(value));
    else if (Object.hasOwn(around.variables, name)) {
      const given = around.variables[name] ?? "";
      charge("environment", given.length);
      found.set(name, given);
    } else if (!found.has(name)) unset.push(name);
  }
  const [first] = unset;
  if (first !== undefined && unset.length === 1)
    own?.warn(
      "VARIABLE_UNSET",
      first,
      `the variable ${first} is not set and is left out`,
      `Set it, or write ${first}=value.`,
    );
  else if (first !== undefined) service.warn("VARIABLE_UNSET", "environment", ...manyUnset(unset));
  return sorted(found);
}

/** Some files pass on hundreds, most of which nobody sets. */
const namedUnset = 5;

function manyUnset(names: readonly string[]): [message: string, advice: string] {
  const more = names.length - namedUnset;
  const listed = `${names.slice(0, namedUnset).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
  return [`the variables ${listed} are not set and are left out`, "Set those that the service needs."];
}

function envFile(service: Reader, item: Tree, index: number, around: Surroundings): ReadonlyMap<string, string> {
  const field = (key: string) => {
    const value = item.kind === "mapping" ? item.entries.get(key) : undefined;
    return value?.kind === "scalar" ? textOf(value) : undefined;
  };
  const path = item.kind === "scalar" ? textOf(item) : (field("path") ?? "");
  const format = field("format") ?? "";
  const at = ["env_file", index];
  if (format !== "" && format !== "raw")
    service.report.error(
      "UNSUPPORTED_VALUE",
      item.at,
      [...service.path, ...at],
      `the format ${format} is unknown`,
      "Use raw, or none.",
    );
  const missing = () => {
    if (field("required") !== "false")
      service.report.error(
        "FILE_MISSING",
        item.at,
        [...service.path, ...at],
        `the env file ${path} was not given`,
        "Give its content with the stack, or set required: false.",
      );
    return new Map<string, string>();
  };
  const read = () => {
    try {
      return around.given.envFile(path, around.variables, format === "raw") ?? missing();
    } catch (error) {
      if (!(error instanceof Unreadable)) throw error;
      throw new Unreadable(`${path}: ${error.message}`, error.advice);
    }
  };
  return service.attempt(at, item.at, read) ?? new Map();
}

function ports(service: Reader, asked: Asked): Port[] {
  const all: Port[] = [];
  const taken = new Set<string>();
  for (const [index, item] of service.list("ports").entries()) {
    const asks = new Set<string>();
    for (const port of service.attempt(["ports", index], item.at, () => readPorts(item)) ?? []) {
      const key = JSON.stringify([port.hostAddress, port.published, port.protocol]);
      if (port.published !== 0 && taken.has(key))
        service.report.error(
          "CONFLICT",
          item.at,
          [...service.path, "ports", index],
          `the port ${port.published}/${port.protocol} is published twice`,
          "Publish it once.",
        );
      taken.add(key);
      all.push(port);
      asks.add(portAsked(port));
    }
    for (const ask of asks) asked.ask("published_port", ask, item.at, [...service.path, "ports", index]);
  }
  return all;
}

function exposed(service: Reader): Exposed[] {
  return service.list("expose").flatMap((item, index) => {
    if (item.kind !== "scalar") return [];
    const read = () => {
      const [range = "", protocol = "tcp"] = textOf(item).split("/");
      if (protocol !== "tcp" && protocol !== "udp")
        throw new Unreadable(`the protocol ${protocol} is not supported`, "Use tcp or udp.");
      return portRange(range).map((container) => ({ container, protocol }) as const);
    };
    return service.attempt(["expose", index], item.at, read) ?? [];
  });
}

function extraHosts(service: Reader): string[] {
  return service.list("extra_hosts").flatMap((item, index) => {
    if (item.kind !== "scalar") return [];
    const [, host, address] = /^([^=:\s]+)[=:]\s*\[?([^\]\s]+)\]?$/.exec(textOf(item)) ?? [];
    if (host !== undefined && address !== undefined) return [`${host}=${address}`];
    const where = [...service.path, "extra_hosts", index];
    service.report.error(
      "VALUE_INVALID",
      item.at,
      where,
      `${JSON.stringify(textOf(item))} is no host`,
      "Write NAME=ADDRESS.",
    );
    return [];
  });
}

function ulimits(service: Reader): Service["ulimits"] {
  const limit = (text: string) => integer(text, -1, Number.MAX_SAFE_INTEGER);
  const found: [string, { soft: number; hard: number }][] = [];
  for (const [name, value] of service.child("ulimits")?.mapping.entries ?? []) {
    if (value.kind === "scalar") {
      const both = service.attempt(["ulimits", name], value.at, () => limit(textOf(value)));
      if (both !== undefined) found.push([name, { soft: both, hard: both }]);
    } else {
      const pair = service.child("ulimits")?.child(name);
      const soft = pair?.value("soft", limit);
      const hard = pair?.value("hard", limit);
      if (soft !== undefined && hard !== undefined) found.push([name, { soft, hard }]);
    }
  }
  return sorted(found);
}

function logging(service: Reader): Service["logging"] {
  const log = service.child("logging");
  return log === undefined ? undefined : { ...set({ driver: log.word("driver") }), options: log.record("options") };
}
