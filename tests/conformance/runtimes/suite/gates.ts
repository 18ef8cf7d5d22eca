import { expect, test } from "@jest/globals";
import { server, type DeploymentInit, type Subject, type WorkloadInit } from "./place.ts";

const soon = { seconds: 0n, nanos: 50_000_000 };
type GateInit = NonNullable<DeploymentInit["gates"]>[number];

const gate = (check: GateInit["check"], rest: Partial<GateInit> = {}): DeploymentInit => ({
  gates: [{ name: "smoke", workload: "web", check, interval: soon, ...rest } as GateInit],
});
const http = (path: string, rest: Partial<GateInit> = {}) =>
  gate({ case: "http", value: { port: "http", path } } as GateInit["check"], rest);
const exec = (script: string, rest: Partial<GateInit> = {}) =>
  gate({ case: "exec", value: { command: ["node", "-e", script] } } as GateInit["check"], rest);

/** Without a health check: its gates alone ask. */
const web = (s: Subject, version: string, rest: WorkloadInit = {}): WorkloadInit =>
  server(s.place, { healthCheck: undefined, environment: { VERSION: version }, ...rest });

export function gateTests(subject: () => Subject): void {
  test("a gate that fails undoes the attempt, says which instance answered what, and is not worth a retry", async () => {
    const s = subject();
    await s.run([server(s.place)], http("/", { passes: 2 }));
    const { run } = await s.about("web");
    await s.order("web", "sick");
    expect(
      await s.run([server(s.place, { restartStamp: "a", count: 2 })], exec("console.log('no'); process.exit(3)")),
    ).toMatchObject({
      kind: "failed",
      reason: "GATE_FAILED",
      worthRetry: false,
      message: expect.stringMatching(
        /^gate smoke: workload web( \(instance 1\))?: node ended with exit code 3: no; generation 1/,
      ),
    });
    expect((await s.about("web")).run).toBe(run);
    expect((await s.observed())?.instances).toHaveLength(1);
  });

  test("a gate that cannot tell lets the generation take over, and the success says so", async () => {
    const s = subject();
    expect(await s.run([web(s, "1")], exec("process.exit(75)"))).toMatchObject({
      kind: "succeeded",
      remark: { reason: "GATE_INCONCLUSIVE", message: expect.stringContaining("exit code 75") },
    });
    const slow = exec("setInterval(() => {}, 1000)", { timeout: { seconds: 0n, nanos: 300_000_000 } });
    expect(await s.run([web(s, "1")], slow)).toMatchObject({
      kind: "succeeded",
      remark: { reason: "GATE_INCONCLUSIVE", message: expect.stringContaining("did not end in time") },
    });
    expect((await s.observed())?.generation).toBe(2);
  });

  test("a generation that has taken over is not asked again, and the next one is, also of what did not change", async () => {
    const s = subject();
    const spec = s.next([web(s, "1")], http("/health"));
    expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
    const { run } = await s.about("web");
    await s.order("web", "sick");
    expect(await s.converge(spec)).toEqual({ kind: "succeeded" });
    expect(await s.run([web(s, "1")], http("/health", { failuresAllowed: 1 }))).toMatchObject({
      reason: "GATE_FAILED",
      message: expect.stringContaining("GET /health answers 503"),
    });
    expect((await s.about("web")).run).toBe(run);
  });

  test("a cancelled attempt does not wait for its gates", async () => {
    const s = subject();
    await s.run([web(s, "1")]);
    const cancel = new AbortController();
    const endless = http("/none", { passes: 1000, interval: { seconds: 60n } });
    const ending = s.converge(s.next([web(s, "2")], endless), cancel.signal);
    cancel.abort();
    expect(await ending).toEqual({ kind: "cancelled" });
    expect((await s.about("web")).env).toMatchObject({ VERSION: "1" });
  });
}
