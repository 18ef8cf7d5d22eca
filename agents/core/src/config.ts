/**
 * The agent's settings: flag over environment over default. Only this file
 * reads the environment; every runtime's main.ts uses it. Long because each
 * setting is described, read and checked here and nowhere else.
 */
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs, type ParseArgsConfig } from "node:util";
import { isLoopback, parseFingerprint, proxiesOf, proxyFor, type ProxySettings } from "@bowline/dial";
import { hostRights, type HostRight, impliedDenials, isHostRight } from "@bowline/kernel";
import { readTraceSettings, type TraceSettings, TraceSettingsError } from "@bowline/traces";
import { logLevels, type LogLevel } from "./log.ts";
import { agentVersion } from "./version.ts";

/** How sessions are carried; `auto`: by a stream, and by polling where none passes (transports.ts). */
export const transportSettings = ["auto", "stream", "poll"] as const;
export type TransportSetting = (typeof transportSettings)[number];

export interface AgentConfig {
  /** Origin of the server, e.g. `https://bowline.example.com`; a path is a prefix. */
  server: string;
  /** Absolute. */
  dataDir: string;
  /** The name it would like; empty: the host's. */
  name: string;
  labels: Readonly<Record<string, string>>;
  /** The registration token, wherever it came from; needed once. */
  registrationToken: string | undefined;
  /** PEM file of the authorities to trust instead of the system's; read at each dial. */
  caFile: string | undefined;
  /** Of a CA in the server's chain, as parseFingerprint spells it: that CA is trusted, and kept. */
  caFingerprint: string | undefined;
  /** PEM files that are shown to a server that asks, read at each dial. */
  clientCertificate: { cert: string; key: string } | undefined;
  /** From HTTPS_PROXY, HTTP_PROXY, NO_PROXY. */
  proxies: ProxySettings;
  /** How sessions are carried. */
  transport: TransportSetting;
  /** While it polls, it looks for a stream at least this often. */
  streamRetryMs: number;
  /** The answer to a greeting takes a round trip and a commit; more is a dead line, or one that carries no stream. */
  greetingWithinMs: number;
  logFormat: "json" | "pretty";
  logLevel: LogLevel;
  /** When standard input closes, stop the workloads and exit: for a parent that must leave nothing behind. */
  lifelineStdin: boolean;
  /** Keys older than this are replaced; 0: only when somebody asks. */
  keyMaxAgeMs: number;
  stopWorkloadsOnExit: boolean;
  /** What the runtime may pass on to workloads; it picks. */
  hostEnvironment: Readonly<Record<string, string | undefined>>;
  /** A Docker agent's engine, as it was given: a local agent may have a DOCKER_HOST that is none of its business. */
  docker: { host?: string; certificates?: string };
  /** Whether its containers may mount paths of the host. */
  allowHostPaths: boolean;
  /** What the host's owner denies, whatever the cluster's policy allows (denials.ts). */
  deny: ReadonlySet<HostRight>;
  /** From OTEL_*; undefined: this agent exports no traces. */
  traces: TraceSettings | undefined;
  /** Crash points of fault tests; see kernel/faults.ts. */
  faults: string | undefined;
}

/** What the program was started with cannot be used; the message says what and how it would be right. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly reason = "CONFIG_INVALID";
}

const labelPattern = /^([A-Za-z0-9][A-Za-z0-9._/-]{0,62})=(.{0,255})$/;
const namePattern = /^[a-z0-9][a-z0-9.-]{0,62}$/;
/** As many as the contract takes. */
const maxLabels = 64;

/** Throws a ConfigError. With `--token-stdin` it reads standard input to its end. */
export function readConfig(args: readonly string[], environment: NodeJS.ProcessEnv = process.env): AgentConfig {
  return configOf(parse(args), environment);
}

/** Settings of `doctor`: the agent's, where the folder may know the server. Throws a ConfigError. */
export function readDoctorConfig(
  args: readonly string[],
  serverOfFolder: (dataDir: string) => string | undefined,
  environment: NodeJS.ProcessEnv = process.env,
): { config: AgentConfig; output: "text" | "json" } {
  const { output, ...flags } = values(args, { ...agentFlags, output: { type: "string" } });
  const server =
    flags.server ?? (environment["BOWLINE_SERVER"] || serverOfFolder(dataDirOf(flags["data-dir"], environment)));
  return {
    config: configOf({ ...flags, ...(server === undefined ? {} : { server }) }, environment),
    output: choice("--output", output ?? "text", ["text", "json"]),
  };
}

function configOf(flags: Flags, environment: NodeJS.ProcessEnv): AgentConfig {
  const setting = (flag: string | undefined, variable: string): string | undefined =>
    flag ?? (environment[variable] === "" ? undefined : environment[variable]);
  const on = (flag: boolean | undefined, variable: string): boolean =>
    flag ?? ["1", "true", "yes"].includes((environment[variable] ?? "").toLowerCase());

  const server = serverOf(setting(flags.server, "BOWLINE_SERVER"), on(flags.insecure, "BOWLINE_INSECURE"));
  const name = setting(flags.name, "BOWLINE_AGENT_NAME") ?? "";
  if (name !== "" && !namePattern.test(name)) {
    throw new ConfigError(`--name ${name}: lower-case letters, digits, dots and dashes, at most 63`);
  }
  return {
    server,
    dataDir: dataDirOf(flags["data-dir"], environment),
    name,
    labels: labelsOf(
      flags.label ?? (environment["BOWLINE_AGENT_LABELS"] ?? "").split(",").filter((text) => text !== ""),
    ),
    registrationToken: tokenOf(flags, setting, environment),
    ...trustOf(
      setting(flags["ca-file"], "BOWLINE_CA_FILE"),
      setting(flags["ca-fingerprint"], "BOWLINE_CA_FINGERPRINT"),
    ),
    clientCertificate: clientCertificateOf(
      setting(flags["client-cert"], "BOWLINE_CLIENT_CERT"),
      setting(flags["client-key"], "BOWLINE_CLIENT_KEY"),
    ),
    proxies: usableProxies(server, environment),
    transport: choice("--transport", setting(flags.transport, "BOWLINE_TRANSPORT") ?? "auto", transportSettings),
    streamRetryMs: milliseconds(
      "--stream-retry-ms",
      setting(flags["stream-retry-ms"], "BOWLINE_STREAM_RETRY_MS"),
      300_000,
    ),
    greetingWithinMs: milliseconds(
      "--greeting-within-ms",
      setting(flags["greeting-within-ms"], "BOWLINE_GREETING_WITHIN_MS"),
      20_000,
    ),
    logFormat: choice(
      "--log-format",
      setting(flags["log-format"], "BOWLINE_LOG_FORMAT") ?? (process.stderr.isTTY ? "pretty" : "json"),
      ["json", "pretty"],
    ),
    logLevel: choice("--log-level", setting(flags["log-level"], "BOWLINE_LOG_LEVEL") ?? "info", logLevels),
    lifelineStdin: flags["lifeline-stdin"] ?? false,
    keyMaxAgeMs: ageOf(setting(flags["key-max-age"], "BOWLINE_AGENT_KEY_MAX_AGE")),
    stopWorkloadsOnExit: on(flags["stop-workloads-on-exit"], "BOWLINE_STOP_WORKLOADS_ON_EXIT"),
    hostEnvironment: environment,
    docker: given({
      host: setting(flags["docker-host"], "DOCKER_HOST"),
      certificates: setting(flags["docker-cert-path"], "DOCKER_CERT_PATH"),
    }),
    ...rightsOf(
      on(flags["allow-host-paths"], "BOWLINE_ALLOW_HOST_PATHS"),
      flags.deny ?? [environment["BOWLINE_AGENT_DENY"] ?? ""],
    ),
    traces: tracesOf(environment),
    faults: environment["BOWLINE_FAULT"],
  };
}

/** Settings of a command about the agent of a folder (`rotate-key`): it dials nobody. Throws a ConfigError. */
export function readRequestConfig(
  args: readonly string[],
  environment: NodeJS.ProcessEnv = process.env,
): { dataDir: string; waitMs: number; output: "text" | "json" } {
  const flags = values(args, { "data-dir": { type: "string" }, wait: { type: "string" }, output: { type: "string" } });
  const seconds = Number(/^([0-9]{1,4})s?$/.exec(flags.wait ?? "60")?.[1] ?? NaN);
  if (Number.isNaN(seconds)) throw new ConfigError(`--wait ${flags.wait}: seconds, like 60s`);
  return {
    dataDir: dataDirOf(flags["data-dir"], environment),
    waitMs: seconds * 1000,
    output: choice("--output", flags.output ?? "text", ["text", "json"]),
  };
}

/** Folder and engine as arguments and environment name them, right or wrong: for what comes before settings are read. */
export function readPlaces(
  args: readonly string[],
  environment: NodeJS.ProcessEnv = process.env,
): { dataDir: string; docker: AgentConfig["docker"] } {
  const flags = parseArgs({ args: [...args], strict: false, options: agentFlags }).values;
  const text = (flag: keyof typeof agentFlags, variable: string): string | undefined =>
    typeof flags[flag] === "string" ? flags[flag] : environment[variable] || undefined;
  return {
    dataDir: dataDirOf(text("data-dir", "BOWLINE_AGENT_DATA_DIR"), environment),
    docker: given({
      host: text("docker-host", "DOCKER_HOST"),
      certificates: text("docker-cert-path", "DOCKER_CERT_PATH"),
    }),
  };
}

function dataDirOf(flag: string | undefined, environment: NodeJS.ProcessEnv): string {
  const home = process.getuid?.() === 0 ? "/var/lib/bowline" : join(homedir(), ".bowline-agent");
  return resolve(flag ?? (environment["BOWLINE_AGENT_DATA_DIR"] || home));
}

function tracesOf(environment: NodeJS.ProcessEnv): TraceSettings | undefined {
  try {
    return readTraceSettings(environment, { name: "bowline-agent", version: agentVersion });
  } catch (error) {
    throw error instanceof TraceSettingsError ? new ConfigError(error.message) : error;
  }
}

/** Without what is undefined. */
function given<T extends object>(values: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;
}

type Flags = ReturnType<typeof parse>;

function parse(args: readonly string[]) {
  return values(args, agentFlags);
}

function values<const T extends NonNullable<ParseArgsConfig["options"]>>(args: readonly string[], options: T) {
  try {
    return parseArgs({ args: [...args], strict: true, allowPositionals: false, options }).values;
  } catch (error) {
    throw new ConfigError((error as Error).message);
  }
}

/** Flags of the agent; help.ts says what each is. */
export const agentFlags = {
  server: { type: "string" },
  "data-dir": { type: "string" },
  name: { type: "string" },
  label: { type: "string", multiple: true },
  "token-file": { type: "string" },
  "token-stdin": { type: "boolean" },
  "ca-file": { type: "string" },
  "ca-fingerprint": { type: "string" },
  "client-cert": { type: "string" },
  "client-key": { type: "string" },
  insecure: { type: "boolean" },
  transport: { type: "string" },
  "stream-retry-ms": { type: "string" },
  "greeting-within-ms": { type: "string" },
  "log-format": { type: "string" },
  "log-level": { type: "string" },
  "key-max-age": { type: "string" },
  "docker-host": { type: "string" },
  "docker-cert-path": { type: "string" },
  "allow-host-paths": { type: "boolean" },
  deny: { type: "string", multiple: true },
  "lifeline-stdin": { type: "boolean" },
  "stop-workloads-on-exit": { type: "boolean" },
} as const satisfies NonNullable<ParseArgsConfig["options"]>;

function serverOf(text: string | undefined, insecure: boolean): string {
  if (text === undefined) throw new ConfigError("--server (or BOWLINE_SERVER) is missing: the server's URL");
  const url = URL.parse(text);
  if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new ConfigError(`--server ${text}: not an http:// or https:// URL`);
  }
  if (url.username !== "" || url.search !== "" || url.hash !== "") {
    throw new ConfigError(`--server ${url.origin}…: no user, query or fragment`);
  }
  if (url.protocol === "http:" && !isLoopback(url.hostname.replace(/^\[(.*)\]$/, "$1")) && !insecure) {
    throw new ConfigError(`--server ${text}: clear text beyond this host needs --insecure; better is https://`);
  }
  return url.href.replace(/\/+$/, "");
}

function trustOf(caFile: string | undefined, fingerprint: string | undefined) {
  if (caFile !== undefined && fingerprint !== undefined) {
    throw new ConfigError("--ca-file and --ca-fingerprint both say whom to trust; give one");
  }
  if (caFile !== undefined) read(caFile, "--ca-file"); // one that is missing is told now, not at each dial
  const caFingerprint = fingerprint === undefined ? undefined : parseFingerprint(fingerprint);
  if (fingerprint !== undefined && caFingerprint === undefined) {
    throw new ConfigError(`--ca-fingerprint ${fingerprint}: write sha256: and 64 hexadecimal digits`);
  }
  return { caFile: caFile === undefined ? undefined : resolve(caFile), caFingerprint };
}

function clientCertificateOf(cert: string | undefined, key: string | undefined): AgentConfig["clientCertificate"] {
  if (cert === undefined && key === undefined) return undefined;
  if (cert === undefined || key === undefined) throw new ConfigError("--client-cert and --client-key belong together");
  read(cert, "--client-cert");
  read(key, "--client-key");
  return { cert: resolve(cert), key: resolve(key) };
}

/** A proxy that cannot be used is told at the start; what it says may be a secret. */
function usableProxies(server: string, environment: NodeJS.ProcessEnv): ProxySettings {
  const proxies = proxiesOf(environment);
  try {
    proxyFor(server, proxies);
  } catch (error) {
    throw new ConfigError((error as Error).message);
  }
  return proxies;
}

/** Never a flag of its own: `ps` shows arguments to everyone. */
function tokenOf(
  flags: Flags,
  setting: (flag: string | undefined, variable: string) => string | undefined,
  environment: NodeJS.ProcessEnv,
): string | undefined {
  if (flags["token-stdin"] === true) {
    if (flags["lifeline-stdin"] === true)
      throw new ConfigError("--token-stdin and --lifeline-stdin both want standard input");
    return readFileSync(0, "utf8").trim();
  }
  const file = setting(flags["token-file"], "BOWLINE_REGISTRATION_TOKEN_FILE");
  if (file !== undefined) {
    try {
      return readFileSync(file, "utf8").trim();
    } catch (error) {
      // Once it is enrolled, the agent needs no token, and its file is gone as a rule.
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw new ConfigError(`--token-file ${file} cannot be read: ${(error as Error).message}`);
    }
  }
  const token = environment["BOWLINE_REGISTRATION_TOKEN"]?.trim();
  return token === "" ? undefined : token;
}

/** Rotations more often than hourly protect nobody and are refused by the server. */
const leastKeyAgeMs = 3_600_000;
const unitsMs = { h: 3_600_000, d: 86_400_000 } as const;

function ageOf(text: string | undefined): number {
  if (text === undefined || text === "0") return 0;
  const [, count, unit] = /^([1-9][0-9]{0,4})([hd])$/.exec(text) ?? [];
  const ms = Number(count) * unitsMs[unit as keyof typeof unitsMs];
  if (count === undefined || ms < leastKeyAgeMs)
    throw new ConfigError(`--key-max-age ${text}: hours or days, like 12h or 90d, at least 1h; 0: never`);
  return ms;
}

function rightsOf(allowHostPaths: boolean, texts: readonly string[]): Pick<AgentConfig, "allowHostPaths" | "deny"> {
  const names = texts.flatMap((text) => text.split(",").map((name) => name.trim())).filter((name) => name !== "");
  const unknown = names.find((name) => !isHostRight(name));
  if (unknown !== undefined)
    throw new ConfigError(`--deny ${unknown}: of ${Object.keys(hostRights).join(", ")}, comma-separated`);
  const deny = impliedDenials(names.filter(isHostRight));
  if (allowHostPaths && deny.has("host-paths"))
    throw new ConfigError("--allow-host-paths and --deny host-paths contradict each other; give one");
  return { allowHostPaths, deny };
}

function labelsOf(texts: readonly string[]): Record<string, string> {
  if (texts.length > maxLabels) throw new ConfigError(`--label: at most ${maxLabels}`);
  const labels: Record<string, string> = {};
  for (const text of texts) {
    const [, key, value] = labelPattern.exec(text.trim()) ?? [];
    if (key === undefined) throw new ConfigError(`--label ${text}: write key=value`);
    labels[key] = value ?? "";
  }
  return labels;
}

function read(file: string, flag: string): void {
  try {
    readFileSync(file);
  } catch (error) {
    throw new ConfigError(`${flag} ${file} cannot be read: ${(error as Error).message}`);
  }
}

/** Between what a busy machine needs and a day. */
const waits = { min: 100, max: 86_400_000 };

function milliseconds(flag: string, text: string | undefined, fallback: number): number {
  if (text === undefined) return fallback;
  const value = /^\d{1,8}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= waits.min && value <= waits.max) return value;
  throw new ConfigError(`${flag} ${text}: milliseconds, ${waits.min} to ${waits.max}`);
}

function choice<const T extends string>(flag: string, value: string, allowed: readonly T[]): T {
  const found = allowed.find((one) => one === value);
  if (found === undefined) throw new ConfigError(`${flag} ${value}: one of ${allowed.join(", ")}`);
  return found;
}
