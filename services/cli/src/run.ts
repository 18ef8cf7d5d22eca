/**
 * The `bowline` command: speaks the contract to a server, and starts servers
 * and agents as programs of their own. See cli.ts for the map.
 */
import { CommanderError } from "commander";
import { readSettings } from "./config.ts";
import type { Cli } from "./cli.ts";
import { asFailure } from "./errors.ts";
import { exitCodes } from "./failure.ts";
import { buildProgram } from "./program.ts";
import { report } from "./report.ts";
import packageJson from "../package.json" with { type: "json" };

function openCli(): Cli {
  const interrupted = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      // The second time somebody means it.
      if (interrupted.signal.aborted) process.exit(exitCodes.interrupted);
      interrupted.abort();
    });
  }
  // `bowline … | head` closes the pipe; that is no failure of ours.
  process.stdout.on("error", () => process.exit(process.exitCode ?? exitCodes.done));
  process.stderr.on("error", () => {});
  return {
    settings: readSettings(),
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    interrupted: interrupted.signal,
    asked: { url: "" },
    exitWith: (code) => void (process.exitCode = code),
    print: (line) => void process.stdout.write(`${line}\n`),
    note: (line) => void process.stderr.write(`${line}\n`),
  };
}

async function main(): Promise<void> {
  const cli = openCli();
  try {
    const program = await buildProgram(cli, packageJson.version, process.argv.slice(2));
    await program.parseAsync(process.argv);
  } catch (error) {
    if (error instanceof CommanderError) {
      process.exitCode = error.exitCode === 0 ? exitCodes.done : exitCodes.usage;
      return;
    }
    const failure = asFailure(error, cli.asked.url, cli.interrupted.aborted);
    report(cli, failure, wantsJson(process.argv));
    process.exitCode = failure.exitCode;
  }
}

function wantsJson(args: readonly string[]): boolean {
  return args.some(
    (arg, index) =>
      /^(--output=|-o=?)json$/.test(arg) || (arg === "json" && /^(-o|--output)$/.test(args[index - 1] ?? "")),
  );
}

await main();
// Connections that are kept alive would hold the process for their idle time.
process.exit();
