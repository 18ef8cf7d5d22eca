/** Logs of containers with a terminal, which the engine gives in another form. */
import { expect, test } from "@jest/globals";
import { until } from "@bowline/testing";
import { besideEngine, busybox, type Beside } from "./beside.ts";

const terminal = { name: "web", image: busybox, container: { tty: true } };
const [id, name] = ["deployment_beside", "web"];

async function logs({ runtime }: Beside, wanted: { lines: number; timestamps?: boolean }): Promise<string> {
  let text = "";
  for await (const bytes of runtime.logs(id, name, 0, { follow: false, ...wanted }, new AbortController().signal))
    text += Buffer.from(bytes).toString();
  return text;
}

test("what a container writes to a terminal is in its logs, line by line, and followed", async () => {
  const beside = await besideEngine();
  const long = 40_000;
  const write = `echo hello; head -c ${long} /dev/zero | tr '\\0' x; echo; echo last`;
  const stay = "trap 'exit 0' TERM; while :; do echo more; sleep 1 & wait $!; done";
  expect(await beside.run([{ ...terminal, command: ["sh", "-c", `${write}; ${stay}`] }])).toEqual({
    kind: "succeeded",
  });
  const start = `hello\r\n${"x".repeat(long)}\r\nlast\r\nmore\r\n`;
  // It runs as soon as its process does; what that writes comes when it comes.
  const whole = await until(
    async () => {
      const text = await logs(beside, { lines: 1000 });
      return text.length >= start.length ? text : undefined;
    },
    { withinMs: 60_000, what: "all lines are in the logs" },
  );
  expect(whole.slice(0, start.length)).toBe(start);
  const timed = await logs(beside, { lines: 1000, timestamps: true });
  expect(timed.split("\r\n").slice(0, 3)).toEqual([
    expect.stringMatching(/^\S+Z hello$/),
    expect.stringMatching(/^\S+Z x+$/),
    expect.stringMatching(/^\S+Z last$/),
  ]);
  const done = new AbortController();
  let followed = "";
  const following = (async () => {
    for await (const bytes of beside.runtime.logs(id, name, 0, { lines: 0, follow: true }, done.signal))
      followed += Buffer.from(bytes).toString();
  })();
  await until(() => followed.includes("more\r\n"), { withinMs: 60_000, what: "a line that is followed" });
  done.abort();
  await following;
});

test("the message of a failure has what the container wrote to its terminal", async () => {
  // What ends soon ends before it counts as there, however busy the machine is.
  const { run } = await besideEngine({ times: { settleMs: 20_000 } });
  const end = await run([{ ...terminal, command: ["sh", "-c", "echo the reason; exit 3"], restartPolicy: 3 }]);
  expect(end).toMatchObject({ kind: "failed", message: expect.stringContaining("the reason") });
});
