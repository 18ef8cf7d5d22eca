/** `npm run fleet`: simulated agents, to size an installation. run.ts has the map. */
import { Code, ConnectError } from "@connectrpc/connect";
import { refusalOf } from "@bowline/session";
import { help } from "./help.ts";
import { type Options, readOptions, UsageError } from "./options.ts";
import { textOf } from "./report.ts";
import { run, RunError } from "./run.ts";

/** As the CLI's. */
const exits = { done: 0, failed: 1, usage: 2, notAllowed: 4, notReached: 5 } as const;

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  let options: Options;
  try {
    options = readOptions(args);
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    process.stderr.write(`npm run fleet: USAGE: ${error.message}\nnpm run fleet -- --help lists the flags.\n`);
    return exits.usage;
  }
  if (options.help) {
    process.stdout.write(help);
    return exits.done;
  }
  const interrupted = new AbortController();
  // Once: the second Ctrl-C ends it at once.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => interrupted.abort());
  try {
    const report = await run(options, process.stderr, interrupted.signal);
    process.stdout.write(options.output === "json" ? `${JSON.stringify(report)}\n` : textOf(report));
    return report.failures.length === 0 ? exits.done : exits.failed;
  } catch (error) {
    if (error instanceof RunError) return failed(error.message, exits.failed);
    const { reason, message, code } = refusalOf(error);
    const text = `${reason}: ${message}`;
    if (code === Code.Unauthenticated || code === Code.PermissionDenied) return failed(text, exits.notAllowed);
    if (code === Code.Unavailable) return failed(text, exits.notReached);
    if (error instanceof ConnectError) return failed(text, exits.failed);
    throw error;
  }
}

function failed(text: string, code: number): number {
  process.stderr.write(`npm run fleet: ${text}\n`);
  return code;
}
