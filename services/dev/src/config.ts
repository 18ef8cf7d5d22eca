/** Flags and environment of `npm start`: the only file here that reads the environment. */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Command, InvalidArgumentError } from "commander";

/** The checkout. */
export const root = fileURLToPath(new URL("../../../", import.meta.url));

export type Options = {
  /** The server's port; 0: any free one. */
  port: number;
  /** The gateway's port; 0: any free one. */
  gatewayPort: number;
  /** Absolute. */
  dataDir: string;
  /** As it was typed, for people. */
  dataDirShown: string;
  /** Colour is welcome. */
  colour: boolean;
};

const defaults = { port: 8080, gatewayPort: 8081, dataDir: ".bowline" } as const;

/** Reads the command line. Ends the process for --help and for wrong usage (exit code 2). */
export function readOptions(argv: readonly string[] = process.argv, env: NodeJS.ProcessEnv = process.env): Options {
  const command = new Command("npm start --")
    .description(
      "Starts all of Bowline on this machine: a server with its own PostgreSQL, an agent that dials it, and the example.\n" +
        "Ctrl-C stops everything; the data stays.",
    )
    .option(
      "--port <port>",
      "port of the server; 0 takes free ones, for the gateway too (env: BOWLINE_PORT; default: 8080)",
      port,
    )
    .option(
      "--gateway-port <port>",
      "port at which the example answers (env: BOWLINE_GATEWAY_PORT; default: 8081)",
      port,
    )
    .option("--data-dir <folder>", "database, keys, logs (env: BOWLINE_DATA_DIR; default: .bowline)")
    .addHelpText("after", "\nExamples:\n  npm start\n  npm start -- --port 0 --data-dir /tmp/second")
    .allowExcessArguments(false)
    .exitOverride((end) => process.exit(end.exitCode === 0 ? 0 : 2))
    .parse([...argv]);
  const flags = command.opts<{ port?: number; gatewayPort?: number; dataDir?: string }>();

  const chosen = flags.port ?? fromEnvironment(env, "BOWLINE_PORT") ?? defaults.port;
  const gatewayPort =
    flags.gatewayPort ?? fromEnvironment(env, "BOWLINE_GATEWAY_PORT") ?? (chosen === 0 ? 0 : defaults.gatewayPort);
  const dataDir = flags.dataDir ?? (env.BOWLINE_DATA_DIR || defaults.dataDir);
  return {
    port: chosen,
    gatewayPort,
    dataDir: resolve(dataDir),
    dataDirShown: dataDir,
    colour: process.stdout.isTTY && !env.NO_COLOR && !env.CI,
  };
}

/** What our programs see: the environment without settings that are meant for others. */
export function childEnvironment(env: NodeJS.ProcessEnv = process.env): NodeJS.ProcessEnv {
  // A BOWLINE_DATABASE_URL or BOWLINE_CONFIG of a real installation must not end up in a trial.
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith("BOWLINE_")));
}

function fromEnvironment(env: NodeJS.ProcessEnv, name: string): number | undefined {
  const text = env[name];
  if (text === undefined || text === "") return undefined;
  try {
    return port(text);
  } catch {
    console.error(`${name} is not a port: ${text}`);
    return process.exit(2);
  }
}

function port(text: string): number {
  const number = Number(text);
  if (!/^\d{1,5}$/.test(text) || number > 65_535) throw new InvalidArgumentError("Write a port: 0 to 65535.");
  return number;
}
