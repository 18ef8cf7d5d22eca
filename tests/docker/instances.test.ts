/** `bowline stack logs -f` and `stack exec` through a real server, agent and container. */
import { beforeAll, expect, test } from "@jest/globals";
import { Role } from "@bowline/contract/options";
import { Stack_State as State } from "@bowline/contract/stacks";
import {
  runProcess,
  startProcess,
  startTcpProxy,
  startTerminal,
  type TcpProxy,
  temporaryFolder,
  until,
} from "@bowline/testing";
import { programs } from "../e2e/fixture.ts";
import { busybox } from "./beside.ts";
import { dockerHosts, type Hosts, settledWithinMs as withinMs } from "./stacks.fixture.ts";

/** Counts, a few lines a second. */
const text = `
services:
  web:
    image: ${busybox}
    command: [sh, -c, "trap 'exit 0' TERM; i=0; while :; do i=$$((i+1)); echo line $$i; sleep 0.1 & wait $$!; done"]
    environment: { COLOUR: blue }`;

let hosts: Hosts;
/** Of the CLI to the server. */
let way: TcpProxy;
let env: Record<string, string>;

beforeAll(async () => {
  hosts = await dockerHosts(["a"]);
  way = await startTcpProxy({ host: "127.0.0.1", port: Number(new URL(hosts.api.url).port) });
  const { token } = await hosts.api.accounts.createServiceAccount({ name: "types", role: Role.OPERATOR });
  env = {
    ...{ BOWLINE_URL: `http://127.0.0.1:${way.port}`, BOWLINE_TOKEN: token },
    ...{ XDG_CONFIG_HOME: temporaryFolder(), npm_lifecycle_event: "" },
  };
  await hosts.apply("shop", text);
  await hosts.reaches("shop", State.RUNNING, ({ targets }) =>
    targets.some(({ services }) => services.some(({ instances }) => instances.length > 0)),
  );
}, withinMs);

const typed = (...args: string[]): string[] => ["node", programs.cli, "stack", ...args];

const numbersOf = (output: string): number[] =>
  [...output.matchAll(/line (\d+)$/gm)].map(([, number]) => Number(number));

test("a program's input, outputs, environment and exit code pass through, and the number of the signal that ends it", async () => {
  const script = "cat; echo $COLOUR >&2; exit 7";
  const ran = await runProcess({
    command: typed("exec", "shop", "web", "-i", "--", "sh", "-c", script),
    env,
    input: "in",
  });
  expect(ran).toMatchObject({ code: 7, stdout: "in", stderr: "blue\n" });
  const killed = await runProcess({ command: typed("exec", "shop", "web", "--", "sh", "-c", "kill -TERM $$"), env });
  expect(killed.code).toBe(143);
});

test("a terminal in a container has this one's size, also when it changes; Ctrl-C ends what runs there, and its exit code is ours", async () => {
  const terminal = startTerminal({ command: typed("exec", "shop", "web", "--", "sh"), env });
  await terminal.untilOutput(/# /, { withinMs });
  terminal.type("stty size\r");
  await terminal.untilOutput(/24 80/, { withinMs });
  await terminal.resize(101, 31);
  await until(
    () => {
      terminal.type("stty size\r");
      return terminal.shown().includes("31 101");
    },
    { withinMs, what: "the size is the new one" },
  );
  terminal.type("echo be''gins; sleep 1000\r");
  await terminal.untilOutput(/begins/, { withinMs });
  terminal.type("\u0003");
  terminal.type("echo after $?\r");
  await terminal.untilOutput(/after 130/, { withinMs });
  terminal.type("exit 5\r");
  expect(await terminal.ended).toMatchObject({ code: 5 });
});

test("followed logs tell each line once, in order, over a way that breaks and an agent that is killed", async () => {
  const logs = startProcess({ command: typed("logs", "shop", "-f", "--tail", "0"), env });
  const reaches = (number: number): Promise<unknown> =>
    until(() => (numbersOf(logs.stdout()).at(-1) ?? 0) > number, { withinMs, what: `line ${number} is told` });
  await reaches(0);
  way.cut();
  await logs.untilOutput(/The connection is lost/, { withinMs });
  way.mend();
  await reaches(numbersOf(logs.stdout()).at(-1) ?? 0);
  const [agent] = hosts.agents;
  await agent?.kill();
  await logs.untilOutput(/No more of a: /, { withinMs });
  agent?.again();
  await reaches(numbersOf(logs.stdout()).at(-1) ?? 0);
  logs.kill("SIGINT");
  expect(await logs.ended).toMatchObject({ code: 130 });
  const numbers = numbersOf(logs.stdout());
  expect(numbers).toEqual(numbers.map((_, index) => (numbers[0] ?? 0) + index));
});
