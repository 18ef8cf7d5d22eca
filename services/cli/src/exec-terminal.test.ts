/** `bowline stack exec` at a real terminal, against a scripted server. */
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { type ExecRequest, InstanceService } from "@bowline/contract/instances";
import { atEnd, startTerminal, temporaryFolder, type Terminal, until } from "@bowline/testing";
import { goodToken } from "./testing/scripted-api.ts";
import { type ScriptedHttp2, startScriptedHttp2 } from "./testing/scripted-http2.ts";

const program = fileURLToPath(new URL("main.ts", import.meta.url));
const withinMs = 30_000;

/** What the program that runs elsewhere is told, in order; it says `ready`, repeats what is typed, and ends with 42 at a `q`. */
async function startShell(listens = true): Promise<ScriptedHttp2 & { heard: ExecRequest["message"][] }> {
  const heard: ExecRequest["message"][] = [];
  const server = await startScriptedHttp2((router) =>
    router.service(InstanceService, {
      async *exec(requests) {
        if (!listens) yield { message: { case: "stdout", value: Buffer.from("ready\r\n") } };
        if (!listens) await new Promise(() => undefined);
        for await (const { message } of requests) {
          heard.push(message);
          if (message.case === "start") yield { message: { case: "stdout", value: Buffer.from("ready\r\n") } };
          if (message.case !== "stdin") continue;
          const typed = Buffer.from(message.value).toString();
          yield { message: { case: "stdout", value: Buffer.from(`typed ${JSON.stringify(typed)}\r\n`) } };
          if (typed === "q") return yield { message: { case: "exit", value: { code: 42 } } };
        }
      },
    }),
  );
  atEnd(() => server.close());
  return { ...server, heard };
}

/** At a terminal that goes on after it: it says the exit code, and waits for the end of what is typed. */
function typeAt({ url }: ScriptedHttp2, ...args: string[]): Terminal {
  const line = ["node", program, "stack", "exec", "shop", "web", ...args];
  return startTerminal({
    command: [
      "sh",
      "-c",
      'trap "" INT; "$@"; echo "code $?"; cat >/dev/null',
      "sh",
      process.execPath,
      ...line.slice(1),
    ],
    env: { BOWLINE_URL: url, BOWLINE_TOKEN: goodToken, XDG_CONFIG_HOME: temporaryFolder(), npm_lifecycle_event: "" },
  });
}

const cooked = ["icanon", "isig", "echo"];

test("what is typed is the program's, Ctrl-C too; it hears of the terminal's size; its exit code is passed on, and the terminal is as it was", async () => {
  const shell = await startShell();
  const terminal = typeAt(shell, "--", "sh");
  await terminal.untilOutput(/ready/);
  expect(shell.heard[0]).toMatchObject({
    case: "start",
    value: { tty: true, size: { columns: 80, rows: 24 }, command: ["sh"] },
  });
  const raw = await terminal.settings();
  expect(cooked.filter((one) => raw.has(one))).toEqual([]);

  terminal.type("\u0003");
  await terminal.untilOutput(/typed "\\u0003"/);
  await terminal.resize(101, 31);
  // stty sets one after the other, so that both may be told.
  const last = () => shell.heard.findLast((message) => message.case === "resize")?.value;
  await until(() => last()?.columns === 101, { withinMs });
  expect(last()).toMatchObject({ columns: 101, rows: 31 });

  terminal.type("q");
  await terminal.untilOutput(/code 42/);
  const after = await terminal.settings();
  expect(cooked.filter((one) => after.has(one))).toEqual(cooked);
  terminal.type("\u0004");
  await terminal.ended;
});

test("a server that is lost in the middle is said with what it means, and the terminal is as it was", async () => {
  const shell = await startShell(false);
  const terminal = typeAt(shell, "--", "sh");
  await terminal.untilOutput(/ready/);
  await shell.cut();
  await terminal.untilOutput(/code 1/);
  expect(terminal.shown()).toContain("The connection to the server ended before the program did");
  const after = await terminal.settings();
  expect(cooked.filter((one) => after.has(one))).toEqual(cooked);
  terminal.type("\u0004");
  await terminal.ended;
});
