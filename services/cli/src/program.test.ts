import { PassThrough } from "node:stream";
import { afterAll, expect, test } from "@jest/globals";
import type { Command } from "commander";
import type { Cli } from "./cli.ts";
import { readSettings } from "./config.ts";
import { buildProgram } from "./program.ts";

// Commander imports node:process, and jest then opens everything that it has, standard input too.
afterAll(() => void process.stdin.destroy());

const cli: Cli = {
  settings: readSettings({}, "/"),
  stdin: new PassThrough() as unknown as Cli["stdin"],
  stdout: new PassThrough() as unknown as Cli["stdout"],
  stderr: new PassThrough() as unknown as Cli["stderr"],
  interrupted: new AbortController().signal,
  asked: { url: "" },
  print: () => {},
  note: () => {},
};

/** Each verb with its whole name. */
function verbs(command: Command, above = ""): [string, Command][] {
  if (command.commands.length === 0) return [[`${above}${command.name()}`, command]];
  return command.commands.flatMap((child) => verbs(child as Command, `${above}${command.name()} `));
}

const all = verbs(buildProgram(cli, "1.2.3"));

test("no command of the documentation is missing", () => {
  const expected: Record<string, string[]> = {
    server: ["start", "config", "migrate"],
    context: ["list", "use", "remove"],
    cluster: ["create", "list", "get", "update", "delete", "grant", "ungrant"],
    token: ["create", "list", "revoke"],
    organisation: ["create", "list"],
    agent: ["join", "list", "get", "cordon", "uncordon", "revoke", "retire", "delete"],
    product: ["apply", "list", "get"],
    publish: ["create", "list", "get", "watch", "diff", "rollback", "unpublish"],
    command: ["list", "get", "cancel", "retry", "watch"],
    deployment: ["list", "get", "reconcile"],
    gateway: ["create", "list", "get", "update", "delete"],
    "service-account": ["create", "list", "revoke"],
    audit: ["list"],
  };
  const names = [
    "status",
    "login",
    ...Object.entries(expected).flatMap(([noun, list]) => list.map((verb) => `${noun} ${verb}`)),
  ];
  expect(all.map(([name]) => name.replace("bowline ", ""))).toEqual(expect.arrayContaining(names));
});

test.each(all)("%s --help tells what it is, an example and the exit codes", (name, command) => {
  let help = "";
  // Its defaults would open the runner's own standard output.
  command
    .configureOutput({ writeOut: (text) => (help += text), getOutHelpWidth: () => 120, getOutHasColors: () => false })
    .outputHelp();
  expect(help).toContain(`Usage: ${name} `);
  expect(help).toMatch(new RegExp(`Examples?:\\n  ${name}\\b`));
  expect(help).toContain("4 not signed in or not allowed");
  expect(command.summary()).not.toBe("");
});

test("no flag takes a token itself", () => {
  const flags = all.flatMap(([, command]) => command.options.map((option) => option.flags));
  expect(flags.filter((flag) => /--(api-|registration-)?token </.test(flag))).toEqual([]);
});
