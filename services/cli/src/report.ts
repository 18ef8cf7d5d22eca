/** Tells a failure: to people as text, to programs as the API's own error. */
import type { Cli } from "./cli.ts";
import type { Failure } from "./failure.ts";
import { plain } from "./text.ts";

/** Writes the failure to standard error: what, where and why, the next command, the reason last. */
export function report(cli: Cli, failure: Failure, asJson: boolean): void {
  const { reason = "", lines = [], next = [], api } = failure.details;
  if (asJson) {
    cli.note(JSON.stringify(api ?? { code: "", message: failure.message, reason, violations: [], requestId: "" }));
    return;
  }
  cli.note(`bowline: ${failure.message}`);
  for (const line of lines) cli.note(`  ${plain(line)}`);
  const commands = next.map((line) => (line.startsWith("the same") ? line : `${cli.settings.invocation} ${line}`));
  if (commands.length === 1) cli.note(`Next: ${commands[0]}`);
  else for (const [index, line] of commands.entries()) cli.note(`${index === 0 ? "Next: " : "  or: "}${line}`);
  if (reason !== "") cli.note(reason);
}
