/**
 * `health` of the agent's program without the rest of it: in a container it is
 * asked every few seconds (`@bowline/agent-core/health`).
 */
import { tell } from "./command-end.ts";
import { ConfigError, readRequestConfig } from "./config.ts";
import { healthCommand } from "./health.ts";

/** As the CLI has it. */
const usageExit = 2;

/** Its exit code. */
export async function runHealth(args: readonly string[]): Promise<number> {
  try {
    const { dataDir, output } = readRequestConfig(args);
    return tell(await healthCommand(dataDir), output);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    process.stderr.write(`bowline agent: USAGE: ${error.message}\n`);
    return usageExit;
  }
}
