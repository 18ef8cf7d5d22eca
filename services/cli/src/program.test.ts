import { readdirSync, readFileSync } from "node:fs";
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
  exitWith: () => undefined,
  asked: { url: "" },
  print: () => {},
  note: () => {},
};

/** Each verb with its whole name. */
function verbs(command: Command, above = ""): [string, Command][] {
  if (command.commands.length === 0) return [[`${above}${command.name()}`, command]];
  return command.commands.flatMap((child) => verbs(child as Command, `${above}${command.name()} `));
}

const all = verbs(await buildProgram(cli, "1.2.3", []));

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
    stack: [
      ...["up", "validate", "ls", "get", "ps", "events", "watch", "down", "stop", "start", "restart", "history"],
      ...["diff", "rollback", "rollout list", "rollout get", "rollout pause", "rollout resume", "rollout abort"],
    ],
    command: ["list", "get", "cancel", "retry", "watch"],
    tasks: ["list", "get"],
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

test("a noun that is typed first is built alone, and is the same as in the whole tree", async () => {
  const nouns = [...new Set(all.map(([name]) => name.split(" ")[1] ?? ""))];
  for (const noun of nouns) {
    const alone = verbs(await buildProgram(cli, "1.2.3", [noun, "--help"])).map(([name]) => name);
    expect(alone).toEqual(all.map(([name]) => name).filter((name) => name.split(" ")[1] === noun));
  }
  for (const typed of [["nonsense"], ["--help"], ["constructor"]])
    expect(verbs(await buildProgram(cli, "1.2.3", typed)).length).toBe(all.length);
});

test("no flag takes a token itself", () => {
  const flags = all.flatMap(([, command]) => command.options.map((option) => option.flags));
  expect(flags.filter((flag) => /--(api-|registration-)?token </.test(flag))).toEqual([]);
});

test("each command that docs/operations tells to type exists, with its flags", () => {
  const folder = new URL("../../../docs/operations/", import.meta.url);
  const typed = readdirSync(folder)
    .filter((file) => file.endsWith(".md"))
    .flatMap((file) => [...readFileSync(new URL(file, folder), "utf8").matchAll(/(?:`|^ {4,})bowline ([^`\n#…]+)/gm)])
    .map(([, words = ""]) => words.trim())
    .filter((words) => !words.includes("<"));
  expect(typed.length).toBeGreaterThan(20);
  const known = new Map(all.map(([name, command]) => [name.replace("bowline ", ""), command]));
  for (const words of typed) {
    const command = [...known].find(([name]) => `${words} `.startsWith(`${name} `));
    expect([words, command?.[0]]).toEqual([words, expect.any(String)]);
    const flags = new Set(command?.[1].options.flatMap(({ long, short }) => [long, short]));
    for (const [flag] of words.matchAll(/(?<=\s)--?[a-z][\w-]*/g)) expect([words, ...flags]).toContain(flag);
  }
});
