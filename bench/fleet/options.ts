/**
 * What `npm run fleet` is told: flags, and the environment for secrets. The only
 * file here that reads the environment.
 *
 * F1: no secret is a flag's value: others on this machine see command lines.
 */
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { parseArgs } from "node:util";
import { misbehaviours, type Misbehaviour } from "@bowline/testing/fleet";

export interface Options {
  /** Undefined: one is started for the run. */
  server: string | undefined;
  caFile: string | undefined;
  /** Text of a registration token; undefined: made with `operatorToken`. */
  registrationToken: string | undefined;
  /** Text of an API token; undefined: no load is made, and the server's side is not looked at. */
  operatorToken: string | undefined;
  agents: number;
  durationMs: number;
  /** Publishes per second. */
  publishRate: number;
  agentsPerPublish: number;
  runMs: readonly [number, number];
  failRate: number;
  heartbeatMs: number | undefined;
  misbehave: Partial<Record<Misbehaviour, number>>;
  clockSkewMs: number | undefined;
  seed: number;
  sourceAddresses: number;
  /** Process ids whose memory and CPU are looked at, with those that they started. */
  serverPid: number | undefined;
  /** For the server that is started: `--name=value`. */
  serverFlags: readonly string[];
  output: "text" | "json";
  /** What was made at a server that was there before stays. */
  keep: boolean;
  help: boolean;
  /** Colour and moving lines are welcome, where the stream is a terminal. */
  decorated: boolean;
}

/** Wrong usage; the message says what would be right. */
export class UsageError extends Error {}

const maxAgents = 10_000;
/** A day: whoever looks for leaks runs it overnight. */
const maxDurationMs = 86_400_000;
/** An agent dials from one of so many addresses; the ports of one last for some 28,000 connections to a server. */
const agentsPerAddress = 2_000;
const maxAddresses = 250;

const flags = {
  server: { type: "string" },
  "ca-file": { type: "string" },
  "token-file": { type: "string" },
  "operator-token-file": { type: "string" },
  agents: { type: "string" },
  duration: { type: "string" },
  "publish-rate": { type: "string" },
  "agents-per-publish": { type: "string" },
  "run-ms": { type: "string" },
  "fail-rate": { type: "string" },
  "heartbeat-ms": { type: "string" },
  misbehave: { type: "string", multiple: true },
  "clock-skew-ms": { type: "string" },
  seed: { type: "string" },
  "source-addresses": { type: "string" },
  "server-pid": { type: "string" },
  "server-flag": { type: "string", multiple: true },
  output: { type: "string" },
  keep: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

type Flags = ReturnType<typeof parse>;

function parse(args: readonly string[]) {
  try {
    return parseArgs({ args: [...args], options: flags, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** Reads flags and environment. Throws UsageError. */
export function readOptions(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>> = process.env,
): Options {
  const given = parse(args);
  const folder = env["INIT_CWD"] ?? process.cwd(); // npm runs scripts in the checkout, and says where it was called
  const agents = whole(given, "agents", 1, maxAgents) ?? 100;
  const server = serverOf(given.server);
  const operatorToken =
    secretOf(folder, "--operator-token-file", given["operator-token-file"] ?? env["BOWLINE_TOKEN_FILE"]) ??
    nonEmpty(env["BOWLINE_TOKEN"]);
  const registrationToken =
    secretOf(folder, "--token-file", given["token-file"]) ?? nonEmpty(env["BOWLINE_REGISTRATION_TOKEN"]);
  const misbehave = misbehaviourOf(given.misbehave ?? []);
  const options: Options = {
    ...{ server, registrationToken, operatorToken, agents, misbehave },
    caFile: given["ca-file"] === undefined ? nonEmpty(env["BOWLINE_CA_FILE"]) : resolve(folder, given["ca-file"]),
    durationMs: durationOf(given.duration ?? "60s"),
    publishRate:
      decimal(given, "publish-rate", 0, 1_000) ?? (server === undefined || operatorToken !== undefined ? 1 : 0),
    agentsPerPublish: whole(given, "agents-per-publish", 1, maxAgents) ?? 10,
    runMs: rangeOf(given["run-ms"] ?? "50..500"),
    failRate: decimal(given, "fail-rate", 0, 1) ?? 0,
    heartbeatMs: whole(given, "heartbeat-ms", 100, 300_000),
    clockSkewMs: whole(given, "clock-skew-ms", 0, maxDurationMs),
    seed: whole(given, "seed", 0, 2 ** 32 - 1) ?? Math.floor(Math.random() * 2 ** 32),
    sourceAddresses: whole(given, "source-addresses", 1, maxAddresses) ?? Math.ceil(agents / agentsPerAddress),
    serverPid: whole(given, "server-pid", 1, 2 ** 31),
    serverFlags: (given["server-flag"] ?? []).map(serverFlag),
    output: outputOf(given.output ?? "text"),
    keep: given.keep === true,
    help: given.help === true,
    decorated: [env["NO_COLOR"], env["CI"]].every((value) => nonEmpty(value) === undefined) && env["TERM"] !== "dumb",
  };
  if (!options.help) check(options);
  return options;
}

function check({
  server,
  registrationToken,
  operatorToken,
  publishRate,
  agents,
  misbehave,
  serverFlags,
}: Options): void {
  if (server === undefined && registrationToken !== undefined)
    throw new UsageError("a registration token belongs to a server: name it with --server");
  if (server !== undefined && registrationToken === undefined && operatorToken === undefined) {
    throw new UsageError(
      "--server needs a registration token (--token-file or BOWLINE_REGISTRATION_TOKEN), or an operator's API token to make one (--operator-token-file or BOWLINE_TOKEN)",
    );
  }
  if (server !== undefined && operatorToken === undefined && publishRate > 0)
    throw new UsageError("--publish-rate needs an API token: --operator-token-file or BOWLINE_TOKEN");
  if (server !== undefined && serverFlags.length > 0)
    throw new UsageError("--server-flag is for the server that a run without --server starts");
  const culprits = Object.values(misbehave).reduce((sum, count) => sum + count, 0);
  if (culprits > agents) throw new UsageError(`${culprits} agents are to misbehave, and there are ${agents}`);
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === undefined || value === "" ? undefined : value;
}

function serverOf(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  const url = URL.parse(text);
  if (url === null || !/^https?:$/.test(url.protocol) || url.username !== "" || url.password !== "")
    throw new UsageError("--server takes a URL, https://HOST or http://HOST:PORT, without credentials");
  return url.origin;
}

/** F1 */
function secretOf(folder: string, flag: string, file: string | undefined): string | undefined {
  if (nonEmpty(file) === undefined) return undefined;
  const path = resolve(folder, file ?? "");
  let text: string;
  try {
    text = readFileSync(path, "utf8").trim();
  } catch (error) {
    throw new UsageError(`${flag}: ${path} cannot be read (${(error as NodeJS.ErrnoException).code ?? "?"})`);
  }
  if (text === "") throw new UsageError(`${flag}: ${path} is empty`);
  return text;
}

function decimal(given: Flags, name: "publish-rate" | "fail-rate", least: number, most: number): number | undefined {
  const text = given[name];
  if (text === undefined) return undefined;
  const value = /^\d+(\.\d+)?$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= least && value <= most)) throw new UsageError(`--${name} takes a number from ${least} to ${most}`);
  return value;
}

function whole(
  given: Flags,
  name: "agents" | "agents-per-publish" | "heartbeat-ms" | "clock-skew-ms" | "seed" | "source-addresses" | "server-pid",
  least: number,
  most: number,
): number | undefined {
  const text = given[name];
  if (text === undefined) return undefined;
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= least && value <= most))
    throw new UsageError(`--${name} takes a whole number from ${least} to ${most}`);
  return value;
}

/** `90s`, `10m`, `2h`, `500ms`; a bare number is seconds. */
function durationOf(text: string): number {
  const [, number = "", unit = "s"] = /^(\d+)(ms|s|m|h)?$/.exec(text) ?? [];
  const ms = number === "" ? Number.NaN : Number(number) * { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }[unit as "s"];
  if (!(ms >= 1 && ms <= maxDurationMs))
    throw new UsageError("--duration takes a time like 90s, 10m or 2h, at most 24h");
  return ms;
}

/** `50..500` or `200`. */
function rangeOf(text: string): readonly [number, number] {
  const [, from = "", to = from] = /^(\d{1,8})(?:\.\.(\d{1,8}))?$/.exec(text) ?? [];
  if (from === "" || Number(to) < Number(from)) throw new UsageError("--run-ms takes a time or a range in ms: 50..500");
  return [Number(from), Number(to)];
}

function misbehaviourOf(texts: readonly string[]): Options["misbehave"] {
  const wanted: Options["misbehave"] = {};
  for (const text of texts.flatMap((one) => one.split(","))) {
    const [, name, count] = /^([a-z-]+)=(\d{1,5})$/.exec(text) ?? [];
    const kind = misbehaviours.find((known) => known === name);
    if (kind === undefined || count === undefined)
      throw new UsageError(`--misbehave takes KIND=COUNT, KIND one of ${misbehaviours.join(", ")}`);
    wanted[kind] = Number(count);
  }
  return wanted;
}

function serverFlag(text: string): string {
  if (!/^[a-z][a-z0-9-]*=.*$/.test(text))
    throw new UsageError("--server-flag takes NAME=VALUE, e.g. dials-per-second=1000");
  return `--${text}`;
}

function outputOf(text: string): "text" | "json" {
  if (text !== "text" && text !== "json") throw new UsageError(`--output takes text or json, not ${text}`);
  return text;
}
