/**
 * `bowline server`: start, config, health, migrate, and the commands of the machine's
 * owner. See config.ts for the settings, compose.ts for what is started,
 * backup.ts, restore.ts.
 */
import { join } from "node:path";
import { isIPv4 } from "node:net";
import {
  BackupError,
  EmbeddedPostgresError,
  migrate,
  openDatabase,
  pendingMigrations,
  SchemaError,
  runEmbeddedPostgres,
} from "@bowline/db";
import { configureFaults, isProblem } from "@bowline/kernel";
import { backup, checkBackup } from "./backup.ts";
import { startServer } from "./compose.ts";
import {
  type Config,
  ConfigError,
  describeConfig,
  flagOf,
  environmentOf,
  loadConfig,
  type SettingName,
  settings,
} from "./config.ts";
import { createLog } from "./log.ts";
import { restore, restored } from "./restore.ts";

const [command = "help", ...rest] = process.argv.slice(2);
process.exitCode = await run(command, rest);

async function run(name: string, args: readonly string[]): Promise<number> {
  if (args.includes("--help") || args.includes("-h")) return help(0);
  try {
    switch (name) {
      case "start":
        return await start(args);
      case "config":
        return printConfig(args);
      case "migrate":
        return await migrateOnly(args);
      case "backup":
        return await backup(args);
      case "verify-backup":
        return await checkBackup(args);
      case "restore":
        return await restore(args);
      case "restored":
        return await restored(args);
      case "help":
      case "--help":
      case "-h":
        return help(0);
      default:
        process.stderr.write(`bowline server: there is no command ${name}\n`);
        return help(2);
    }
  } catch (error) {
    if (error instanceof ConfigError) {
      process.stderr.write(`bowline server: INVALID_SETTING: ${error.message}\n`);
      return 2;
    }
    const reason =
      isProblem(error) ||
      error instanceof EmbeddedPostgresError ||
      error instanceof BackupError ||
      error instanceof SchemaError
        ? error.reason
        : "START_FAILED";
    process.stderr.write(`bowline server: ${reason}: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}

async function start(args: readonly string[]): Promise<number> {
  const { config, faults, traces } = loadConfig(args);
  configureFaults(
    faults,
    () => process.kill(process.pid, "SIGKILL") as never,
    () => void process.kill(process.pid, "SIGSTOP"),
  );
  refuseClearText(config);
  // Whoever read the log may be gone; the server, and an orderly end, go on without a reader.
  for (const output of [process.stdout, process.stderr]) output.on("error", () => {});
  const log = await createLog({
    level: config.logLevel,
    format: config.logFormat || (process.stderr.isTTY ? "pretty" : "json"),
  });
  const stopped = stopRequest(config.lifelineStdin);
  const server = await startServer(
    config,
    log,
    ({ name, detail, tookMs }) => log.info({ stage: name, detail, ms: Math.round(tookMs) }, "started"),
    traces,
  );
  const why = await Promise.race([
    stopped.then((signal) => ({ kind: "asked", signal })),
    server.failed.then((failure) => ({ kind: "failed", signal: failure })),
  ]);
  log.info({ because: why.signal }, "stopping");
  const hurry = why.kind === "failed" ? AbortSignal.abort() : secondSignal();
  await server.drain(hurry);
  for (const end of await server.stop()) {
    if (end.outcome !== "stopped") log.warn({ ...end }, "did not stop in order");
  }
  log.info({}, "stopped");
  return why.kind === "asked" ? 0 : 1;
}

/** Resolves with the first reason to stop. */
function stopRequest(lifeline: boolean): Promise<string> {
  return new Promise((resolve) => {
    process.once("SIGTERM", () => resolve("SIGTERM"));
    process.once("SIGINT", () => resolve("SIGINT"));
    process.once("SIGHUP", () => resolve("SIGHUP"));
    if (!lifeline) return;
    process.stdin.resume();
    process.stdin.once("end", () => resolve("standard input closed"));
    process.stdin.once("error", () => resolve("standard input closed"));
  });
}

/** Aborts when somebody asks again: then agents are not waited for. */
function secondSignal(): AbortSignal {
  const again = new AbortController();
  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) process.on(signal, () => again.abort());
  return again.signal;
}

/** Clear text beyond loopback would show tokens to the network. */
function refuseClearText(config: Config): void {
  const { host } = config;
  const loopback = host === "::1" || host === "localhost" || (isIPv4(host) && host.startsWith("127."));
  if (loopback || config.insecure || config.tlsCert !== "") return;
  throw new ConfigError(
    `--host ${config.host} is reachable from outside and this server speaks clear text. Give --tls-cert and --tls-key, put TLS in front of 127.0.0.1, or add --insecure where the network is trusted.`,
  );
}

function printConfig(args: readonly string[]): number {
  const json = args.includes("--json");
  const rows = describeConfig(loadConfig(args.filter((arg) => arg !== "--json")));
  if (json) process.stdout.write(`${JSON.stringify(rows, null, 2)}\n`);
  else
    for (const row of rows)
      process.stdout.write(`${row.setting.padEnd(22)} ${String(row.value).padEnd(32)} ${row.from}\n`);
  return 0;
}

async function migrateOnly(args: readonly string[]): Promise<number> {
  const dryRun = args.includes("--dry-run");
  const { config } = loadConfig(args.filter((arg) => arg !== "--dry-run"));
  const log = await createLog({
    level: config.logLevel,
    format: config.logFormat || (process.stderr.isTTY ? "pretty" : "json"),
  });
  const embedded =
    config.databaseUrl === ""
      ? await runEmbeddedPostgres({ dataDir: join(config.dataDir, "postgres"), log })
      : undefined;
  try {
    const database = openDatabase({
      address: embedded?.connection ?? config.databaseUrl,
      applicationName: "bowline migrate",
    });
    try {
      const pending = await pendingMigrations(database.db);
      process.stderr.write(pending.length === 0 ? "The schema is up to date.\n" : `To do: ${pending.join(", ")}\n`);
      if (!dryRun && pending.length > 0)
        for (const name of (await migrate(database.db)).applied) process.stdout.write(`${name}\n`);
    } finally {
      await database.end();
    }
  } finally {
    await embedded?.stop();
  }
  return 0;
}

function help(code: number): number {
  const lines = [
    "bowline server: the control plane.",
    "",
    "  start     run it                      bowline server start --data-dir /var/lib/bowline-server",
    "  config    print what is in force      bowline server config --json",
    "  health    whether it takes work       bowline server health --data-dir /var/lib/bowline-server",
    "  migrate   bring the schema up to date bowline server migrate --dry-run",
    "  backup    copy the database           bowline server backup /srv/backups/monday",
    "            with the key of its secrets bowline server backup /srv/backups/monday --include-encryption-key",
    "  verify-backup  read a copy to its end bowline server verify-backup /srv/backups/monday",
    "  restore   a copy into an empty database    bowline server restore /srv/backups/monday",
    "            in place of what is there   bowline server restore /srv/backups/monday --replace --yes",
    "  restored  after a restore by other means   bowline server restored",
    "",
    "Settings: flag over environment over --config FILE (YAML) over default.",
    ...(Object.keys(settings) as SettingName[]).map((name) => {
      const { help: text, fallback } = settings[name];
      return `  --${flagOf(name).padEnd(22)} ${text} Default: ${fallback === "" ? "empty" : String(fallback)}. ${environmentOf(name)}`;
    }),
    "",
    "Traces: OTEL_EXPORTER_OTLP_ENDPOINT and the other OTEL_* of OTLP over HTTP; docs/operations/traces.md.",
    "",
    "Exit codes: 0 stopped when asked, 1 failed, 2 wrong usage.",
  ];
  (code === 0 ? process.stdout : process.stderr).write(`${lines.join("\n")}\n`);
  return code;
}
