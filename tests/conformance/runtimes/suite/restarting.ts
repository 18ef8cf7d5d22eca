import { expect, test } from "@jest/globals";
import { RestartPolicy } from "@bowline/contract/deployments";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

export function restartingTests(subject: () => Subject): void {
  test("ALWAYS starts again what ended with 0", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.order("web", "exit?code=0");
    await s.untilInstance("web", ({ restarts, health }) => restarts === 1 && health === "HEALTHY");
  });

  test("ON_FAILURE starts again what failed, not what ended with 0", async () => {
    const s = subject();
    await s.run([server(s.place, { restartPolicy: RestartPolicy.ON_FAILURE })]);
    await s.order("web", "exit?code=3");
    await s.untilInstance("web", ({ restarts, health }) => restarts === 1 && health === "HEALTHY");
    await s.order("web", "exit?code=0");
    expect(await s.untilInstance("web", ({ phase }) => phase === "EXITED")).toMatchObject({ exitCode: 0, restarts: 1 });
  });

  test("NEVER does not start again, and tells the exit code", async () => {
    const s = subject();
    await s.run([server(s.place, { restartPolicy: RestartPolicy.NEVER })]);
    await s.order("web", "exit?code=3");
    expect(await s.untilInstance("web", ({ phase }) => phase === "EXITED")).toMatchObject({ exitCode: 3, restarts: 0 });
  });

  test("an exit code is known though the agent that started it is gone", async () => {
    const s = subject();
    await s.run([server(s.place, { restartPolicy: RestartPolicy.NEVER })]);
    await s.runtime.close({ stopWorkloads: false });
    s.runtime = await s.place.open();
    await s.order("web", "exit?code=3");
    expect(await s.untilInstance("web", ({ phase }) => phase === "EXITED")).toMatchObject({ exitCode: 3 });
  });

  test("the wait between starts doubles", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const starts: number[] = [];
    for (let restart = 1; restart <= 3; restart += 1) {
      const before = Date.now(); // behind the order, this process may come to look at its clock late
      await s.order("web", "exit?code=1");
      const { startedAt } = await s.untilInstance(
        "web",
        ({ restarts, health }) => restarts === restart && health === "HEALTHY",
      );
      starts.push((startedAt?.getTime() ?? 0) - before);
    }
    const first = s.place.backoffFirstMs;
    for (const [restart, waited] of starts.entries()) expect(waited).toBeGreaterThanOrEqual(first * 2 ** restart * 0.8);
  });

  test("an instance that waits for its next start says so", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.order("web", "exit?code=9");
    expect(await s.untilInstance("web", ({ phase }) => phase === "BACKING_OFF")).toMatchObject({
      exitCode: 9,
      reason: expect.stringContaining("9"),
    });
  });
}
