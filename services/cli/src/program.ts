/** The tree of commands. */
import { Command } from "commander";
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
import { secretCommand } from "./commands/secret.ts";
import { serverCommand } from "./commands/server.ts";
import { serviceAccountCommand } from "./commands/service-account.ts";
import { statusCommand } from "./commands/status.ts";
import { tokenCommand } from "./commands/token.ts";
import { exitCodesHelp } from "./failure.ts";

/** All commands; each throws instead of ending the process. */
export function buildProgram(cli: Cli, version: string): Command {
  const program = new Command("bowline")
    .description("Bowline, a control plane for places nobody can dial into.")
    .version(version, "-V, --version", "print the version")
    .helpCommand(false)
    .addHelpText(
      "after",
      `\nExamples:\n  bowline status\n  bowline publish create hello --to local --wait\n\n${exitCodesHelp}`,
    );
  statusCommand(cli, program);
  loginCommand(cli, program);
  const nouns = [
    contextCommand,
    secretCommand,
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
