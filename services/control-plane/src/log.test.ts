/** The log as another process reads it. */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, test } from "@jest/globals";

const run = promisify(execFile);
const log = new URL("log.ts", import.meta.url).href;

/** What a process that runs `body`, with a `log`, has written when it has ended, however it did. */
async function said(body: string): Promise<string> {
  const script = `import { createLog } from ${JSON.stringify(log)};
    const log = await createLog({ level: "info", format: "json" });
    ${body}`;
  const ended = await run(process.execPath, ["--input-type=module", "-e", script]).catch(
    (error: { stderr: string }) => error,
  );
  return ended.stderr;
}

const linesOf = (text: string): string[] =>
  text
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => (JSON.parse(line) as { msg: string }).msg);

test("lines of one turn are all written, in order, whether the process ends by itself, exits or fails", async () => {
  const many = `for (let n = 0; n < 3_000; n += 1) log.info({ n }, "line " + n);`;
  const expected = Array.from({ length: 3_000 }, (_, n) => `line ${n}`);
  for (const end of ["", "process.exit(3);", `throw new Error("nobody catches it");`])
    expect(linesOf(await said(many + end))).toEqual(expected);
});

test("a line is there without a further one, and what a secret's field holds never is", async () => {
  const text = await said(`log.info({ token: "bwt_hidden", of: { password: "hidden-too" } }, "quiet");
    await new Promise((resolve) => setImmediate(resolve)); // the end of the turn, which came before
    process.kill(process.pid, "SIGKILL");`);
  expect(linesOf(text)).toEqual(["quiet"]);
  expect(text).not.toMatch(/bwt_hidden|hidden-too/);
});
