/**
 * Settings: flag over environment over file over default. The only place of the
 * control plane that reads the environment. `settings` is data: the help, the
 * printed configuration and the documentation are made of it. Long because all
 * settings stand in that one list.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { readTraceSettings, type TraceSettings, TraceSettingsError } from "@bowline/traces";
import { z } from "zod";
import { clientAddresses } from "./platform/client-address.ts";
import { originsOf } from "./platform/cors.ts";
import { hideRedisPassword, parseRedisUrl } from "./platform/redis/address.ts";
import { serverVersion } from "./version.ts";

const text = z.string();
const number = (min: number, max: number) => z.coerce.number().int().min(min).max(max);
/** Kept as it was given; checked here, so that a wrong one is named at the start. */
const readableBy = (read: (given: string) => unknown) =>
  text.superRefine((given, context) => {
    try {
      read(given);
    } catch (error) {
      context.addIssue({ code: "custom", message: error instanceof Error ? error.message : String(error) });
    }
  });
const redisUrl = readableBy((given) => given !== "" && parseRedisUrl(given));
const flag = z.union([z.boolean(), z.stringbool()]);

interface Setting<Type extends z.ZodType> {
  type: Type;
  fallback: string | number | boolean;
  help: string;
  /** How a secret one is shown; undefined: as it is. */
  shown?: (value: string) => string;
}

const hidden = (): string => "(hidden)";

function setting<Type extends z.ZodType>(
  type: Type,
  fallback: string | number | boolean,
  help: string,
  shown?: (value: string) => string,
): Setting<Type> {
  return { type, fallback, help, ...(shown === undefined ? {} : { shown }) };
}

/** Every setting. Flag: `--public-url`; environment: `BOWLINE_PUBLIC_URL`; file: `publicUrl`. */
export const settings = {
  host: setting(
    text.min(1),
    "127.0.0.1",
    "Address to listen on. Beyond loopback needs TLS (--tls-cert), or --insecure.",
  ),
  port: setting(number(0, 65_535), 8080, "Port for REST, Connect and gRPC. 0: any free one."),
  dataDir: setting(text.min(1), ".bowline", "Folder of the embedded database, the encryption key and the admin token."),
  publicUrl: setting(
    z.union([z.literal(""), z.url({ protocol: /^https?$/ })]),
    "",
    "URL under which agents and people reach this server. Empty: where it listens.",
  ),
  advertiseUrl: setting(
    z.union([z.literal(""), z.url({ protocol: /^https?$/ })]),
    "",
    "URL under which other replicas reach this one, for logs and exec; with several replicas on several machines it has to be set. Empty: where it listens, if that is loopback; else nowhere.",
  ),
  databaseUrl: setting(text, "", "PostgreSQL URL. Empty: the embedded one.", hidden),
  databasePasswordFile: setting(text, "", "File with the password of --database-url, instead of one in the URL."),
  redisUrl: setting(
    redisUrl,
    "",
    "Redis, for hints between replicas: redis://, rediss://, redis+sentinel://HOST,HOST/MASTER, redis+cluster://HOST,HOST. Empty: none.",
    hideRedisPassword,
  ),
  redisPasswordFile: setting(text, "", "File with the password of Redis, instead of one in the URL."),
  redisCaFile: setting(text, "", "File with the CA of Redis's certificate (PEM), for rediss://. Empty: the system's."),
  encryptionKeyFile: setting(
    text,
    "",
    "File with the key for secrets at rest. Empty: <data-dir>/encryption-key, made at the first start.",
  ),
  tlsCert: setting(
    text,
    "",
    "PEM file: the server's certificate and those above it. Read again when it changes. Empty: clear text.",
  ),
  tlsKey: setting(text, "", "PEM file: the key of --tls-cert, without a passphrase."),
  tlsClientCa: setting(
    text,
    "",
    "PEM file: CA of client certificates, which clusters may require of agents. Empty: none are asked for.",
  ),
  trustedProxies: setting(
    readableBy(clientAddresses),
    "",
    "Addresses and networks (10.0.0.0/8) with commas between, whose X-Forwarded-For or Forwarded is believed. Empty: none.",
  ),
  insecure: setting(flag, false, "Allow clear text beyond loopback."),
  logFormat: setting(z.enum(["", "json", "pretty"]), "", "json or pretty. Empty: pretty on a terminal, else json."),
  logLevel: setting(z.enum(["debug", "info", "warn", "error"]), "info", "Lowest level that is logged."),
  lifelineStdin: setting(flag, false, "Stop when standard input closes (for whoever spawns the server)."),
  heartbeatIntervalMs: setting(number(100, 300_000), 15_000, "Time between an agent's heartbeats, ms."),
  silenceLimitMs: setting(number(300, 900_000), 45_000, "Silence after which an agent's session is closed, ms."),
  accessTokenLifeMs: setting(
    number(2_000, 3_600_000),
    600_000,
    "Life of the token that an agent's session gives for its calls, ms; it is renewed at half of it.",
  ),
  leaseMs: setting(number(500, 600_000), 15_000, "Lease of a replica, ms."),
  leaseGraceMs: setting(
    number(500, 600_000),
    30_000,
    "Added to a passed lease before a replica's sessions are ended, ms.",
  ),
  drainSpreadMs: setting(
    number(0, 600_000),
    30_000,
    "Time within which agents leave a replica that stops while others run, ms; longer with many agents.",
  ),
  sessionLifeMs: setting(
    number(1_000, 604_800_000),
    7_200_000,
    "Life of an agent's session, ±10 %; then it moves to another replica, ms.",
  ),
  signingKeyLifeMs: setting(number(4_000, 31_536_000_000), 604_800_000, "Life of a key that signs access tokens, ms."),
  dialsPerSecond: setting(
    number(0, 100_000),
    200,
    "Agents' sessions that a replica opens in a second; the others come again. 0: any number.",
  ),
  agentMessagesPerSecond: setting(
    number(0, 1_000_000),
    2_000,
    "Messages and calls of one agent that a replica takes in a second, over 20 s; above it the session ends. 0: any number.",
  ),
  corsOrigins: setting(
    readableBy(originsOf),
    "",
    "Origins whose web pages may call this server: exact ones with commas between, or *. Empty: none.",
  ),
  rateLimitPrincipal: setting(
    number(0, 10_000_000),
    6_000,
    "Calls per minute that one token may make to a replica. 0: any number.",
  ),
  rateLimitAddress: setting(
    number(0, 10_000_000),
    3_000,
    "Calls per minute from one address; agents' are not counted. 0: any number. Behind a proxy see --trusted-proxies.",
  ),
  openMetrics: setting(
    flag,
    false,
    "Answer /metrics to everybody. Else only to callers on this machine and to tokens of viewers and operators.",
  ),
  eventsRetentionHours: setting(
    number(1, 8_760),
    24,
    "How long a watch can go on from a cursor; after that it begins with a snapshot.",
  ),
  commandsRetentionDays: setting(
    number(1, 3_650),
    30,
    "How long ended commands are kept whose wish a newer one has replaced, and idempotency keys.",
  ),
  auditRetentionDays: setting(number(1, 3_650), 365, "How long audit events are kept."),
  historyEveryMs: setting(number(100, 3_600_000), 60_000, "Time between two turns of upkeep of history, ms."),
  maxConnections: setting(number(2, 500), 20, "Connections to PostgreSQL."),
} as const;

export type SettingName = keyof typeof settings;
export type Config = { [Name in SettingName]: z.output<(typeof settings)[Name]["type"]> };
export type Origin = "flag" | "environment" | "file" | "default";

/** What a command takes beside settings. */
export interface Beside {
  /** Arguments without a flag, at most. */
  words?: number;
  /** Flags without a value. */
  switches?: readonly string[];
  /** Takes `--output table|json`. */
  output?: boolean;
}

export interface LoadedConfig {
  config: Config;
  origins: Record<SettingName, Origin>;
  file: string | undefined;
  /** From OTEL_*; undefined: nothing is traced. */
  traces: TraceSettings | undefined;
  /** Crash points of fault tests (libs/kernel/src/faults.ts). No setting, so that no help offers it. */
  faults: string | undefined;
  /** Arguments without a flag. */
  words: string[];
  /** Flags without a value that were given. */
  switches: ReadonlySet<string>;
  /** `--output json` was given. */
  json: boolean;
}

/** A setting that can't be used; `name` says which, the message what would be right. */
export class ConfigError extends Error {}

/** Reads settings. Throws ConfigError for an unknown flag, key or value. */
export function loadConfig(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>> = process.env,
  more: Beside = {},
): LoadedConfig {
  const { flags, words } = readFlags(args, more);
  const switches = new Set((more.switches ?? []).filter((name) => flags[name] === true));
  const file = typeof flags["config"] === "string" ? flags["config"] : environment["BOWLINE_CONFIG"];
  const fromFile = file === undefined ? {} : readFile(file);
  const origins = {} as Record<SettingName, Origin>;
  const values: Record<string, unknown> = {};
  for (const [name, { type, fallback }] of Object.entries(settings) as [SettingName, Setting<z.ZodType>][]) {
    const given = flags[flagOf(name)] ?? environment[environmentOf(name)] ?? fromFile[name];
    origins[name] =
      flags[flagOf(name)] !== undefined
        ? "flag"
        : environment[environmentOf(name)] !== undefined
          ? "environment"
          : fromFile[name] !== undefined
            ? "file"
            : "default";
    const parsed = type.safeParse(given ?? fallback);
    if (!parsed.success) {
      const where = {
        flag: `--${flagOf(name)}`,
        environment: environmentOf(name),
        file: `${file}: ${name}`,
        default: name,
      }[origins[name]];
      throw new ConfigError(`${where}: ${parsed.error.issues.map((issue) => issue.message).join("; ")}`);
    }
    values[name] = parsed.data;
  }
  const config = values as Config;
  config.dataDir = resolve(config.dataDir);
  checkTls(config);
  config.databaseUrl = withPassword(config);
  return {
    config,
    origins,
    file,
    traces: tracesOf(environment),
    faults: environment["BOWLINE_FAULT"],
    words,
    switches,
    json: isJson(flags["output"]),
  };
}

function tracesOf(environment: Readonly<Record<string, string | undefined>>): TraceSettings | undefined {
  try {
    return readTraceSettings(environment, { name: "bowline-control-plane", version: serverVersion });
  } catch (error) {
    throw error instanceof TraceSettingsError ? new ConfigError(error.message) : error;
  }
}

function isJson(output: string | boolean | undefined): boolean {
  if (output !== undefined && output !== "json" && output !== "table")
    throw new ConfigError(`--output takes table or json, not ${String(output)}`);
  return output === "json";
}

function checkTls({ tlsCert, tlsKey, tlsClientCa }: Config): void {
  if ((tlsCert === "") !== (tlsKey === "")) {
    throw new ConfigError(
      `--tls-cert and --tls-key belong together; --tls-${tlsCert === "" ? "cert" : "key"} is missing`,
    );
  }
  if (tlsClientCa !== "" && tlsCert === "") throw new ConfigError("--tls-client-ca needs --tls-cert and --tls-key");
}

/** The URL with the password of its file, for whoever connects; nothing shows it. */
function withPassword({ databaseUrl, databasePasswordFile: file }: Config): string {
  if (file === "") return databaseUrl;
  const url = URL.parse(databaseUrl);
  if (url === null || url.username === "")
    throw new ConfigError("--database-password-file needs --database-url with a user: postgres://user@host/database");
  if (url.password !== "")
    throw new ConfigError("--database-password-file: --database-url has a password too; give one");
  try {
    url.password = encodeURIComponent(readFileSync(file, "utf8").trim());
  } catch (error) {
    throw new ConfigError(`--database-password-file: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (url.password === "") throw new ConfigError(`--database-password-file: ${file} is empty`);
  return url.href;
}

export function flagOf(name: SettingName): string {
  return name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

export function environmentOf(name: SettingName): string {
  return `BOWLINE_${name.replaceAll(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`;
}

/** What is in force and where it came from; secrets hidden. */
export function describeConfig({
  config,
  origins,
  file,
}: LoadedConfig): { setting: string; value: unknown; from: string }[] {
  return (Object.keys(settings) as SettingName[]).map((name) => ({
    setting: name,
    value: shown(name, config[name]),
    from: { flag: `--${flagOf(name)}`, environment: environmentOf(name), file: file ?? "", default: "default" }[
      origins[name]
    ],
  }));
}

function shown(name: SettingName, value: Config[SettingName]): unknown {
  const setting: Setting<z.ZodType> = settings[name];
  return setting.shown === undefined || typeof value !== "string" || value === "" ? value : setting.shown(value);
}

function readFlags(
  args: readonly string[],
  { words = 0, switches = [], output = false }: Beside,
): { flags: Record<string, string | boolean | undefined>; words: string[] } {
  const options: Record<string, { type: "string" | "boolean" }> = { config: { type: "string" } };
  for (const name of Object.keys(settings) as SettingName[]) {
    options[flagOf(name)] = { type: typeof settings[name].fallback === "boolean" ? "boolean" : "string" };
  }
  for (const name of switches) options[name] = { type: "boolean" };
  if (output) options["output"] = { type: "string" };
  try {
    const parsed = parseArgs({ args: [...args], options, strict: true, allowPositionals: words > 0 });
    if (parsed.positionals.length > words) throw new Error(`unexpected argument ${parsed.positionals.at(-1)}`);
    return { flags: parsed.values as Record<string, string | boolean>, words: parsed.positionals };
  } catch (error) {
    throw new ConfigError(error instanceof Error ? error.message : String(error));
  }
}

function readFile(path: string): Record<string, unknown> {
  // Loaded where there is a file: most starts have none, and it is dozens of modules.
  const yaml = createRequire(import.meta.url)("yaml") as typeof import("yaml");
  let parsed: unknown;
  try {
    parsed = yaml.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new ConfigError(`${path}: ${error instanceof Error ? error.message : String(error)}`);
  }
  if (parsed === null || parsed === undefined) return {};
  if (typeof parsed !== "object" || Array.isArray(parsed))
    throw new ConfigError(`${path}: expected settings as "name: value"`);
  for (const key of Object.keys(parsed)) {
    if (!(key in settings)) throw new ConfigError(`${path}: there is no setting ${key}`);
  }
  return parsed as Record<string, unknown>;
}
