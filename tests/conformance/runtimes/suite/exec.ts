import { expect, test } from "@jest/globals";
import type { ExecInput, ExecOutput, ExecRequest } from "@bowline/agent-core";
import { Deployment_Desired } from "@bowline/contract/deployments";
import { until } from "@bowline/testing";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

/** Longest wait for an exec to end: a Node that starts on a busy machine. */
const withinMs = 60_000;

interface Running {
  output: ExecOutput[];
  /** What one of its streams has said so far. */
  text(kind: "stdout" | "stderr"): string;
  leave(): void;
  ended: Promise<void>;
}

const data = (text: string): ExecInput => ({ kind: "stdin", bytes: Buffer.from(text) });

async function* listed(...items: ExecInput[]): AsyncIterable<ExecInput> {
  yield* items;
}

/** Nothing comes, and it does not end. */
async function* silence(): AsyncIterable<ExecInput> {
  await new Promise(() => {});
  yield data("");
}

export function execTests(subject: () => Subject): void {
  const inside = (s: Subject, ...args: string[]): string[] => [...(s.place.program(...args).command ?? [])];

  function start(s: Subject, request: Partial<ExecRequest>, input: AsyncIterable<ExecInput> = listed()): Running {
    const left = new AbortController();
    const signal = AbortSignal.any([left.signal, AbortSignal.timeout(withinMs)]);
    const output: ExecOutput[] = [];
    const ended = (async () => {
      const all = s.runtime.exec(s.id, "web", 0, { command: [], tty: false, ...request }, input, signal);
      for await (const item of all) output.push(item);
    })();
    const text = (kind: string): string =>
      output.map((item) => (item.kind === kind && "bytes" in item ? Buffer.from(item.bytes).toString() : "")).join("");
    return { output, text, leave: () => left.abort(), ended };
  }

  const programs = async (s: Subject, mode: string): Promise<number> =>
    (await s.place.processes()).filter(({ command }) => command.includes(mode)).length;

  test("a program in the instance's environment: stdin, both outputs, exit code", async () => {
    const s = subject();
    await s.run([server(s.place, { environment: { VALUE: "of the instance" } })]);
    const run = start(s, { command: inside(s, "echo", "5") }, listed(data("to and "), data("fro")));
    await run.ended;
    expect(run.text("stdout")).toBe("to and fro");
    expect(run.text("stderr")).toBe("END of the instance\n");
    expect(run.output.at(-1)).toEqual({ kind: "exit", code: 5 });
    expect(await s.instance("web")).toMatchObject({ phase: "RUNNING", restarts: 0 });
  });

  test("a terminal of the size that was asked for, and of another when that is told", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const turns: (() => Promise<ExecInput>)[] = [
      async () => {
        await until(() => run.text("stdout").includes("true 100x30"), { withinMs });
        return { kind: "resize", size: { columns: 61, rows: 17 } };
      },
      async () => {
        await until(() => run.text("stdout").includes("true 61x17"), { withinMs });
        return data("q\n");
      },
    ];
    async function* typed(): AsyncIterable<ExecInput> {
      for (const turn of turns) yield await turn();
      yield* silence();
    }
    const command = inside(s, "terminal");
    const run = start(s, { command, tty: true, size: { columns: 100, rows: 30 } }, typed());
    await run.ended;
    expect(run.output.at(-1)).toEqual({ kind: "exit", code: 9 });
  });

  test("a reader that goes away ends what was started, and the instance goes on", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    for (const tty of [false, true]) {
      const run = start(s, { command: inside(s, "terminal"), tty }, silence());
      await until(() => run.text("stdout") !== "", { withinMs });
      expect(await programs(s, "terminal")).toBeGreaterThan(0);
      run.leave();
      await run.ended;
      expect(run.output.filter(({ kind }) => kind === "exit")).toEqual([]);
      await until(async () => (await programs(s, "terminal")) === 0, { withinMs });
    }
    expect(await s.instance("web")).toMatchObject({ phase: "RUNNING", restarts: 0 });
  });

  test("much output arrives whole, also where it is read slowly", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const total = 4 * 1024 * 1024;
    const command = inside(s, "flood", String(total));
    let bytes = 0;
    const signal = AbortSignal.timeout(withinMs);
    for await (const item of s.runtime.exec(s.id, "web", 0, { command, tty: false }, listed(), signal)) {
      if (bytes === 0) await new Promise((resolve) => setTimeout(resolve, 50)); // long enough to fill every pipe
      if (item.kind === "stdout") bytes += item.bytes.length;
      else expect(item).toEqual({ kind: "exit", code: 0 });
    }
    expect(bytes).toBe(total);
  });

  test("what an exec started ends with its instance", async () => {
    const s = subject();
    await s.run([server(s.place, { stopGrace: { seconds: 1n } })]);
    const run = start(s, { command: inside(s, "sleep") }, silence());
    await until(async () => (await programs(s, "sleep")) === 1, { withinMs });
    expect(await s.absent()).toEqual({ kind: "succeeded" });
    await run.ended;
    expect(await programs(s, "sleep")).toBe(0);
  });

  test("a program that is not there ends with 126 or 127", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const run = start(s, { command: ["/no/such/program"] });
    await run.ended;
    expect([126, 127]).toContain((run.output.at(-1) as { code?: number }).code);
  });

  test("nothing is run in an instance that is not there, or does not run", async () => {
    const s = subject();
    const unknown = start(s, { command: inside(s, "sleep") });
    await unknown.ended;
    expect(unknown.output).toMatchObject([{ kind: "refused", reason: "INSTANCE_UNKNOWN" }]);
    await s.run([server(s.place)]);
    await s.run([server(s.place)], { desired: Deployment_Desired.PAUSED });
    const paused = start(s, { command: inside(s, "sleep") });
    await paused.ended;
    expect(paused.output).toMatchObject([{ kind: "refused", reason: "INSTANCE_NOT_RUNNING" }]);
  });
}
