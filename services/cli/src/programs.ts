/**
 * The server and the agents, which this program starts by path and never
 * imports: they are deployables of their own.
 */
import { spawn } from "node:child_process";
import { access } from "node:fs/promises";
import { flushCompileCache } from "node:module";
import { constants } from "node:os";
import { fileURLToPath } from "node:url";
import { resolve } from "node:path";
import type { Command } from "commander";
import type { Cli } from "./cli.ts";
import { exitCodes, Failure } from "./failure.ts";

const root = fileURLToPath(new URL("../../../", import.meta.url));

/** Entry files of the other deployables. */
export const programs = {
  server: resolve(root, "services/control-plane/src/main.ts"),
  agent: (runtime: "local" | "docker" | "kubernetes"): string => resolve(root, `agents/${runtime}/src/main.ts`),
};

/**
 * The flags that were typed, as the other program takes them: flags that were
 * not typed stay away, so that its own variables and files decide.
 */
export function forwarded(
  cli: Cli,
  command: Command,
  how: { paths?: readonly string[]; except?: readonly string[] } = {},
): string[] {
  const args: string[] = [];
  for (const option of command.options) {
    const name = option.name();
    if (command.getOptionValueSource(option.attributeName()) !== "cli" || how.except?.includes(name) === true) continue;
    const value: unknown = command.getOptionValue(option.attributeName());
    if (typeof value === "boolean") args.push(`--${name}`);
    else for (const item of Array.isArray(value) ? value : [value]) args.push(`--${name}`, path(name, String(item)));
  }
  return args;

  function path(name: string, value: string): string {
    return how.paths?.includes(name) === true ? resolve(cli.settings.folder, value) : value;
  }
}

/**
 * Becomes another program: same process, same terminal, so that signals and
 * kill reach it without anybody in between. Where the platform cannot do that
 * it is started as a child, which gets our signals and gives its exit code.
 */
export async function become(cli: Cli, file: string, args: readonly string[]): Promise<void> {
  try {
    await access(file);
  } catch {
    throw new Failure(exitCodes.failed, `This installation has no ${file}.`, { reason: "NOT_INSTALLED" });
  }
  const argv = [process.execPath, file, ...args];
  if (process.execve !== undefined && process.platform !== "win32") {
    flushCompileCache(); // at its end a process does so by itself; this one has none
    process.emitWarning = () => {}; // it says that execve is experimental, into the other program's output
    process.execve(process.execPath, argv, definedOnly(cli.settings.environment));
  }
  const child = spawn(process.execPath, argv.slice(1), { stdio: "inherit", env: cli.settings.environment });
  const pass = (): void => void child.kill("SIGTERM");
  cli.interrupted.addEventListener("abort", pass, { once: true });
  process.exitCode = await new Promise<number>((done, fail) => {
    child.on("error", fail);
    child.on("exit", (code, signal) =>
      done(signal === null ? (code ?? exitCodes.failed) : 128 + constants.signals[signal]),
    );
  });
  cli.interrupted.removeEventListener("abort", pass);
}

/** Runs a program of the host to its end, with our terminal. Throws a Failure where it fails. */
export async function runHere([file = "", ...args]: readonly string[]): Promise<void> {
  const child = spawn(file, args, { stdio: ["ignore", "inherit", "inherit"] });
  const how = await new Promise<string>((done) => {
    child.on("error", (error) => done(error.message));
    child.on("exit", (code, signal) => done(code === 0 ? "" : `ended with ${signal ?? String(code)}`));
  });
  if (how !== "")
    throw new Failure(exitCodes.failed, `${[file, ...args].join(" ")}: ${how}`, { reason: "COMMAND_FAILED" });
}

function definedOnly(env: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));
}
