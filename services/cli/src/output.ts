/**
 * Results to standard output: a table for people, the API's own JSON for
 * programs, or ids only.
 *
 * O1: with `--output json` standard output has JSON and nothing else: one
 *     document, or one per line when watching.
 */
import { toJson } from "@bufbuild/protobuf";
import type { DescMessage, MessageShape } from "@bufbuild/protobuf";
import type { Cli } from "./cli.ts";
import { columns, plain } from "./text.ts";

export type OutputFlags = { output: "table" | "json"; quiet?: boolean };

/** A column: its heading and what a row shows below it. */
export type Column<T> = readonly [heading: string, cell: (row: T) => string];

/** A message as the API's JSON. */
export function json<D extends DescMessage>(schema: D, message: MessageShape<D>): unknown {
  return toJson(schema, message);
}

/** Prints one document. */
export function printJson(cli: Cli, value: unknown): void {
  cli.print(JSON.stringify(value, null, 2));
}

/** Prints one document on one line. */
export function printJsonLine(cli: Cli, value: unknown): void {
  cli.print(JSON.stringify(value));
}

/** Prints a list: `response` as JSON, the ids of `rows`, or a table. `none` says what to do where there is nothing. */
export function printList<T, D extends DescMessage>(
  cli: Cli,
  flags: OutputFlags,
  list: {
    schema: D;
    response: MessageShape<D>;
    rows: readonly T[];
    id: (row: T) => string;
    columns: readonly Column<T>[];
    none: string;
  },
): void {
  if (flags.output === "json") return printJson(cli, json(list.schema, list.response));
  if (flags.quiet === true) return list.rows.forEach((row) => cli.print(list.id(row)));
  if (list.rows.length === 0) return cli.note(list.none);
  const head = list.columns.map(([heading]) => heading);
  const rows = list.rows.map((row) => list.columns.map(([, cell]) => plain(cell(row))));
  for (const line of columns([head, ...rows])) cli.print(line);
}

/** Prints one resource: JSON, its id, or facts as `name  value` lines, one for each line of a value. Empty ones are left out. */
export function printOne<D extends DescMessage>(
  cli: Cli,
  flags: OutputFlags,
  one: {
    schema: D;
    message: MessageShape<D>;
    id: string;
    title: string;
    facts: readonly (readonly [name: string, value: string])[];
  },
): void {
  if (flags.output === "json") return printJson(cli, json(one.schema, one.message));
  if (flags.quiet === true) return cli.print(one.id);
  cli.print(plain(one.title));
  const rows = one.facts.flatMap(([name, value]) =>
    value
      .split("\n")
      .filter((line) => line.trim() !== "")
      .map((line, index) => [index === 0 ? `  ${name}` : "", plain(line)]),
  );
  for (const line of columns(rows)) cli.print(line);
}

/** Prints what was done in one line, or the resource as JSON, or its id. */
export function printDone<D extends DescMessage>(
  cli: Cli,
  flags: OutputFlags,
  done: { schema: D; message: MessageShape<D>; id: string; text: string },
): void {
  if (flags.output === "json") return printJson(cli, json(done.schema, done.message));
  cli.print(flags.quiet === true ? done.id : plain(done.text));
}

/** A hint on standard error, unless ids only are wanted. `commands` are lines without the program's name. */
export function hint(cli: Cli, flags: OutputFlags, text: string, ...commands: string[]): void {
  if (flags.quiet === true || flags.output === "json") return;
  const lines = commands.map((line) => `${cli.settings.invocation} ${line}`);
  if (lines.length <= 1) return cli.note(lines.length === 0 ? text : `${text} ${lines[0]}`);
  cli.note(text);
  for (const line of lines) cli.note(`  ${line}`);
}
