/** `bowline stack logs|exec` as a real process against a scripted server. */
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { type ExecRequest, InstanceService, type StreamLogsRequest } from "@bowline/contract/instances";
import { Code, ConnectError } from "@connectrpc/connect";
import { atEnd, runProcess, temporaryFolder } from "@bowline/testing";
import { goodToken, refusal, startScriptedApi } from "./testing/scripted-api.ts";
import { startScriptedHttp2 } from "./testing/scripted-http2.ts";
import { harmless } from "./text.ts";

const program = fileURLToPath(new URL("main.ts", import.meta.url));

const type = (url: string, args: string[], input?: string) =>
  runProcess({
    command: ["node", program, "stack", ...args],
    env: { BOWLINE_URL: url, BOWLINE_TOKEN: goodToken, XDG_CONFIG_HOME: temporaryFolder(), npm_lifecycle_event: "" },
    ...(input === undefined ? {} : { input }),
  });

const instance = (agent: string, index: number) => ({ agent, service: "web", index, deploymentId: "deployment_1" });

test("logs are told with whose they are; a host that is away is named and makes the exit code 1", async () => {
  const asked: StreamLogsRequest[] = [];
  const api = await startScriptedApi((router) =>
    router.service(InstanceService, {
      async *streamLogs(request) {
        asked.push(request);
        yield { entries: [{ instance: instance("press-1", 0), line: "hello" }] };
        yield { entries: [] };
        yield {
          entries: [
            { instance: instance("press-10", 1), line: "there" },
            { instance: instance("press-2", 0), reason: "AGENT_OFFLINE", message: "offline since 08:40" },
          ],
        };
      },
    }),
  );
  atEnd(() => api.close());
  const told = await type(api.url, ["logs", "shop", "web", "--tail", "5", "--agent", "press-1"]);
  expect(told.stdout).toBe("web-0@press-1 | hello\nweb-1@press-10 | there\n");
  expect(told).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("press-2: AGENT_OFFLINE: offline since 08:40"),
  });
  expect(asked[0]).toMatchObject({ stack: "shop", services: ["web"], lines: 5, agent: "press-1", follow: false });
  expect(await type(api.url, ["logs", "shop", "--tail", "10001"])).toMatchObject({ code: 2 });
  const lines = (await type(api.url, ["logs", "shop", "-o", "json"])).stdout.trim().split("\n");
  expect(JSON.parse(lines[0] ?? "")).toMatchObject({ line: "hello", instance: { agent: "press-1" } });
});

/** A server whose calls for logs are answered one after the other as `calls` say. */
async function startLogs(...calls: ((request: StreamLogsRequest) => AsyncGenerator<object>)[]) {
  const asked: StreamLogsRequest[] = [];
  const api = await startScriptedApi((router) =>
    router.service(InstanceService, {
      async *streamLogs(request) {
        asked.push(request);
        const answer = calls[asked.length - 1];
        if (answer === undefined) throw refusal(Code.NotFound, "NOT_FOUND", "there is no such stack");
        yield* answer(request);
      },
    }),
  );
  atEnd(() => api.close());
  return { url: api.url, asked };
}

const at = (seconds: number) => ({ seconds: BigInt(seconds), nanos: 0 });
const line = (text: string, seconds?: number, agent = "press-1") => ({
  ...{ instance: instance(agent, 0), line: text },
  ...(seconds === undefined ? {} : { time: at(seconds) }),
});
const lostWay = () => new ConnectError("the way is lost", Code.Unavailable);

test("followed logs go on after a lost connection: each line once, by its time", async () => {
  const { url, asked } = await startLogs(
    async function* () {
      yield { entries: [line("one", 1), line("two", 2), line("same", 2)] };
      throw lostWay();
    },
    async function* () {
      yield { entries: [] };
      throw lostWay();
    },
    async function* () {
      yield { entries: [line("two", 2), line("same", 2)] };
      yield { entries: [line("same", 2), line("three", 3)] };
    },
  );
  const told = await type(url, ["logs", "shop", "-f"]);
  const lines = ["one", "two", "same", "same", "three"];
  expect(told).toMatchObject({ code: 0, stdout: lines.map((text) => `web-0@press-1 | ${text}\n`).join("") });
  expect(told.stderr.match(/The connection is lost/g)).toHaveLength(1);
  expect(asked.map(({ lines, timestamps }) => [lines, timestamps])).toEqual([
    [100, true],
    [1000, true],
    [1000, true],
    [1000, true], // whether something came in its place
  ]);
});

test("what takes the place of what was followed is followed in turn, until there is nothing of the stack", async () => {
  const { url, asked } = await startLogs(
    async function* () {
      yield { entries: [line("old", 1)] };
    },
    async function* () {
      yield { entries: [line("old", 1), line("new", 2)] };
    },
  );
  expect(await type(url, ["logs", "shop", "web", "-f"])).toMatchObject({
    ...{ code: 0, stdout: "web-0@press-1 | old\nweb-0@press-1 | new\n" },
    stderr: "",
  });
  expect(asked).toHaveLength(3);
});

test("followed logs without times: what was written meanwhile is not asked for, and said to be missing", async () => {
  const { url, asked } = await startLogs(
    async function* () {
      yield { entries: [line("one")] };
      throw lostWay();
    },
    async function* () {
      yield { entries: [line("one")] };
    },
  );
  const told = await type(url, ["logs", "shop", "-f"]);
  expect(told.stdout).toBe("web-0@press-1 | one\nweb-0@press-1 | one\n");
  expect(told.stderr).toContain("What is written meanwhile is not shown");
  expect(asked.map(({ lines }) => lines)).toEqual([100, 0, 0]);
});

test("a host that is lost while its logs are followed is asked again by itself; one that is not there any more is told", async () => {
  const { url, asked } = await startLogs(
    async function* () {
      yield { entries: [line("one", 1, "press-1"), line("uno", 1, "press-2")] };
      const gone = { reason: "TUNNEL_LOST", message: "the tunnel broke" };
      yield { entries: ["press-1", "press-2"].map((agent) => ({ instance: instance(agent, 0), ...gone })) };
    },
    async function* ({ agent }) {
      yield { entries: [line("two", 2, agent)] };
    },
  );
  const told = await type(url, ["logs", "shop", "-f"]);
  const [back] = asked.slice(1).map(({ agent }) => agent);
  const other = back === "press-1" ? "press-2" : "press-1";
  expect(told.stdout.trim().split("\n").at(-1)).toBe(`web-0@${back} | two`);
  expect(told).toMatchObject({ code: 1, stderr: expect.stringContaining(`No more of ${other}: NOT_FOUND`) });
  expect(
    asked
      .slice(1)
      .map(({ agent }) => agent)
      .toSorted(),
  ).toEqual(["press-1", "press-2"]);
});

test("what cannot be followed at all is told at once", async () => {
  const { url, asked } = await startLogs();
  expect(await type(url, ["logs", "shop", "-f"])).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("NOT_FOUND"),
  });
  expect(asked).toHaveLength(1);
});

test("a command's input, output and exit code pass through; what it is run with is not read by a shell", async () => {
  const messages: ExecRequest["message"][] = [];
  const server = await startScriptedHttp2((router) =>
    router.service(InstanceService, {
      async *exec(requests) {
        let typed = 0;
        for await (const { message } of requests) {
          messages.push(message);
          if (message.case === "start") yield { message: { case: "started", value: instance("press-1", 0) } };
          if (message.case === "stdin") typed += message.value.length;
        }
        yield { message: { case: "stderr", value: Buffer.from("careful\n") } };
        yield { message: { case: "stdout", value: Buffer.from(`${typed} bytes\n`) } };
        yield { message: { case: "exit", value: { code: 42 } } };
      },
    }),
  );
  atEnd(() => server.close());
  const input = "x".repeat(100_000);
  const ran = await type(server.url, ["exec", "shop", "web", "-i", "--index", "1", "--", "sort", "-r", "$HOME"], input);
  expect(ran).toMatchObject({ code: 42, stdout: "100000 bytes\n", stderr: "careful\n" });
  expect(messages[0]).toMatchObject({
    case: "start",
    value: { stack: "shop", service: "web", index: 1, tty: false, command: ["sort", "-r", "$HOME"] },
  });
  expect(messages.slice(1).every((one) => one.case === "stdin" && one.value.length <= 32_768)).toBe(true);
});

test("with -t, but with no terminal at standard input, it runs without one: what comes in has an end", async () => {
  const heard: ExecRequest["message"][] = [];
  const api = await startScriptedHttp2((router) =>
    router.service(InstanceService, {
      async *exec(requests) {
        for await (const { message } of requests) heard.push(message);
        yield { message: { case: "exit", value: { code: 0 } } };
      },
    }),
  );
  atEnd(() => api.close());
  const told = await type(api.url, ["exec", "shop", "web", "-it", "--", "sh"], "ls");
  expect(told).toMatchObject({ code: 0, stderr: expect.stringContaining("Standard input is no terminal") });
  expect(heard).toMatchObject([
    { case: "start", value: { tty: false } },
    { case: "stdin", value: Buffer.from("ls") },
  ]);
});

test("on a terminal a line keeps its colours and loses what moves the cursor", () => {
  expect(harmless("\u001b[31mred\u001b[0m\tok")).toBe("\u001b[31mred\u001b[0m\tok");
  expect(harmless("\u001b]0;title\u0007a\u001b[2Jb\r\u009b1c")).toBe("]0;titlea[2Jb1c");
});
