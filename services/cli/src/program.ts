/**
 * The tree of commands.
 *
 * L1: where the first word names a noun, only that noun's file is loaded: each
 *     brings its part of the contract along, and together they are most of what
 *     a start costs. Whatever else was typed (help, a misspelt word) needs all.
 */
import { Command } from "commander";
import type { Cli } from "./cli.ts";
import { exitCodesHelp } from "./failure.ts";

/** Adds itself to the program, or gives what to add. */
type Build = (cli: Cli, program: Command) => Command | void;

/** In the order of the help. */
const nouns: Record<string, () => Promise<Build>> = {
  status: async () => (await import("./commands/status.ts")).statusCommand,
  login: async () => (await import("./commands/login.ts")).loginCommand,
  context: async () => (await import("./commands/login.ts")).contextCommand,
  secret: async () => (await import("./commands/secret.ts")).secretCommand,
  registry: async () => (await import("./commands/registry.ts")).registryCommand,
  server: async () => (await import("./commands/server.ts")).serverCommand,
  cluster: async () => (await import("./commands/cluster.ts")).clusterCommand,
  token: async () => (await import("./commands/token.ts")).tokenCommand,
  agent: async () => (await import("./commands/agent.ts")).agentCommand,
  product: async () => (await import("./commands/product.ts")).productCommand,
  publish: async () => (await import("./commands/publish.ts")).publishCommand,
  stack: async () => (await import("./commands/stack.ts")).stackCommand,
  gateway: async () => (await import("./commands/gateway.ts")).gatewayCommand,
  command: async () => (await import("./commands/command.ts")).commandCommand,
  tasks: async () => (await import("./commands/tasks.ts")).tasksCommand,
  deployment: async () => (await import("./commands/deployment.ts")).deploymentCommand,
  organisation: async () => (await import("./commands/organisation.ts")).organisationCommand,
  "service-account": async () => (await import("./commands/service-account.ts")).serviceAccountCommand,
  audit: async () => (await import("./commands/audit.ts")).auditCommand,
};

/** The commands that `args` may mean; each throws instead of ending the process. */
export async function buildProgram(cli: Cli, version: string, args: readonly string[]): Promise<Command> {
  const program = new Command("bowline")
    .description("Bowline, a control plane for places nobody can dial into.")
    .version(version, "-V, --version", "print the version")
    .helpCommand(false)
    .addHelpText(
      "after",
      `\nExamples:\n  bowline status\n  bowline publish create hello --to local --wait\n\n${exitCodesHelp}`,
    );
  const [first = ""] = args;
  const meant = Object.entries(nouns).filter(([noun]) => noun === first || !Object.hasOwn(nouns, first)); // L1
  for (const build of await Promise.all(meant.map(([, load]) => load()))) {
    const command = build(cli, program);
    if (command !== undefined) program.addCommand(command);
  }
  throwUsage(program, "");
  return program;
}

/** Commander ends the process itself, with 1, unless every command throws. */
function throwUsage(command: Command, above: string): void {
  const path = `${above}${command.name()}`;
  command.exitOverride().showHelpAfterError(`(${path} --help tells more)`);
  command.commands.forEach((child) => throwUsage(child as Command, `${path} `));
}
