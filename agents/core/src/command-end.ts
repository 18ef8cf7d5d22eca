/** What a command of the agent's program (commands.ts) says, and how it ends. */
export interface CommandEnd {
  exitCode: 0 | 1 | 3 | 4 | 5;
  /** For people. */
  text: string;
  /** For `--output json`: one document. */
  json: Record<string, unknown>;
}

/** Prints it; its exit code. */
export function tell(end: CommandEnd, output: "text" | "json"): number {
  if (output === "json") process.stdout.write(`${JSON.stringify(end.json)}\n`);
  else (end.exitCode === 0 ? process.stdout : process.stderr).write(`${end.text}\n`);
  return end.exitCode;
}
