/**
 * The `bowline` command: speaks the contract to a server, and starts servers
 * and agents as programs of their own. See cli.ts for the map.
 */
import { Command, CommanderError } from "commander";
import { readSettings } from "./config.ts";
import type { Cli } from "./cli.ts";
import { agentCommand } from "./commands/agent.ts";
import { auditCommand } from "./commands/audit.ts";
import { clusterCommand } from "./commands/cluster.ts";
import { commandCommand } from "./commands/command.ts";
import { deploymentCommand } from "./commands/deployment.ts";
import { gatewayCommand } from "./commands/gateway.ts";
import { contextCommand, loginCommand } from "./commands/login.ts";
import { organisationCommand } from "./commands/organisation.ts";
import { productCommand } from "./commands/product.ts";
import { publishCommand } from "./commands/publish.ts";
import { serverCommand } from "./commands/server.ts";
import { serviceAccountCommand } from "./commands/service-account.ts";
import { statusCommand } from "./commands/status.ts";
import { tokenCommand } from "./commands/token.ts";
import { asFailure } from "./errors.ts";
import { exitCodes, exitCodesHelp } from "./failure.ts";
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
    print: (line) => void process.stdout.write(`${line}\n`),
    note: (line) => void process.stderr.write(`${line}\n`),
  };
}

function buildProgram(cli: Cli): Command {
  const program = new Command("bowline")
    .description("Bowline, a control plane for places nobody can dial into.")
    .version(packageJson.version, "-V, --version", "print the version")
    .helpCommand(false)
    .addHelpText(
      "after",
      `\nExamples:\n  bowline status\n  bowline publish create hello --to local --wait\n\n${exitCodesHelp}`,
    );
  statusCommand(cli, program);
  loginCommand(cli, program);
  const nouns = [
    contextCommand,
    serverCommand,
    clusterCommand,
    tokenCommand,
    agentCommand,
    productCommand,
    publishCommand,
    gatewayCommand,
    commandCommand,
    deploymentCommand,
    organisationCommand,
    serviceAccountCommand,
    auditCommand,
  ];
  for (const build of nouns) program.addCommand(build(cli));
  throwUsage(program, "");
  return program;
}

/** Commander ends the process itself, with 1, unless every command throws. */
function throwUsage(command: Command, above: string): void {
  const path = `${above}${command.name()}`;
  command.exitOverride().showHelpAfterError(`(${path} --help tells more)`);
  command.commands.forEach((child) => throwUsage(child as Command, `${path} `));
}

async function main(): Promise<void> {
  const cli = openCli();
  try {
    await buildProgram(cli).parseAsync(process.argv);
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
