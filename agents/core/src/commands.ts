/** What the agent's program does besides being the agent: `--help`, `doctor`, `health`, `rotate-key`. */
import { tell } from "./command-end.ts";
import { ConfigError, readDoctorConfig, readRequestConfig } from "./config.ts";
import { reportOf } from "./doctor-report.ts";
import { diagnose, serverOfFolder } from "./doctor.ts";
import { runHealth } from "./health-command.ts";
import { helpText } from "./help.ts";
import { rotateKeyCommand } from "./rotate-command.ts";

/** Wrong usage, as the CLI has it. */
const usageExit = 2;

/** Runs a command if `args` name one, and resolves with its exit code; undefined: they are the agent's own. */
export async function runCommand(args: readonly string[]): Promise<number | undefined> {
  const [name, ...rest] = args;
  if (args.includes("--help") || name === "-h") {
    process.stdout.write(helpText());
    return 0;
  }
  if (name === undefined || name.startsWith("-")) return undefined;
  try {
    switch (name) {
      case "rotate-key": {
        const { dataDir, waitMs, output } = readRequestConfig(rest);
        return tell(await rotateKeyCommand(dataDir, waitMs), output);
      }
      case "health":
        return await runHealth(rest);
      case "doctor": {
        const { config, output } = readDoctorConfig(rest, serverOfFolder);
        return tell(reportOf(await diagnose(config)), output);
      }
      default:
        throw new ConfigError(`there is no command ${name}; --help lists them`);
    }
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`bowline agent: USAGE: ${error.message}\n`);
    return usageExit;
  }
}
