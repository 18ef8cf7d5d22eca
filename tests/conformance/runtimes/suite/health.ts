import { expect, test } from "@jest/globals";
import { healthCheck, httpPort, patientHealthCheck, server } from "./place.ts";
import type { Subject } from "./place.ts";

export function healthTests(subject: () => Subject): void {
  test("an instance that falls ill is UNHEALTHY, and HEALTHY when it is well again", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.order("web", "sick");
    const ill = await s.untilInstance("web", ({ health }) => health === "UNHEALTHY");
    expect(ill).toMatchObject({ phase: "RUNNING", reason: expect.stringContaining("503") });
    await s.order("web", "well");
    await s.untilInstance("web", ({ health }) => health === "HEALTHY");
  });

  test("a TCP check passes when the port takes connections", async () => {
    const s = subject();
    const probe = { case: "tcp" as const, value: { port: "http" } };
    expect(await s.run([server(s.place, { healthCheck: { ...patientHealthCheck, probe } })])).toEqual({
      kind: "succeeded",
    });
    expect((await s.instance("web"))?.health).toBe("HEALTHY");
  });

  test("a TCP check fails where nobody listens", async () => {
    const s = subject();
    const probe = { case: "tcp" as const, value: { port: "http" } };
    const silent = {
      name: "web",
      ...s.place.program("sleep"),
      ports: [httpPort],
      healthCheck: { ...healthCheck, probe },
    };
    expect(await s.run([silent])).toMatchObject({ kind: "failed", reason: "UNHEALTHY" });
  });

  test("a command's exit code is health", async () => {
    const s = subject();
    const check = (code: string) => {
      const { command = [] } = s.place.program("exit", code, "checked");
      // What is asked is the code: a program that starts slowly is not one that takes too long.
      return { ...healthCheck, timeout: { seconds: 20n }, probe: { case: "exec" as const, value: { command } } };
    };
    const idle = { name: "web", ...s.place.program("sleep") };
    expect(await s.run([{ ...idle, healthCheck: check("0") }])).toEqual({ kind: "succeeded" });
    expect(await s.run([{ ...idle, healthCheck: check("1") }])).toMatchObject({
      kind: "failed",
      reason: "UNHEALTHY",
      message: expect.stringContaining("checked"),
    });
  });

  test("a check that takes too long has failed", async () => {
    const s = subject();
    const { command = [] } = s.place.program("sleep");
    const probe = { case: "exec" as const, value: { command } };
    const timeout = { seconds: 0n, nanos: 200_000_000 };
    expect(
      await s.run([{ name: "web", ...s.place.program("sleep"), healthCheck: { ...healthCheck, timeout, probe } }]),
    ).toMatchObject({
      kind: "failed",
      reason: "UNHEALTHY",
      message: expect.stringContaining("in time"),
    });
  });

  test("failures in the start period don't count; meanwhile it is told why it is not there, with what it wrote", async () => {
    const s = subject();
    const cancel = new AbortController();
    const { command = [] } = s.place.program("exit", "1", "checked");
    const check = { ...patientHealthCheck, probe: { case: "exec" as const, value: { command } } };
    const told = Promise.withResolvers<string>();
    const ending = s.converge(s.next([server(s.place, { healthCheck: check })]), cancel.signal, ({ workloads }) => {
      const [{ message } = { message: "" }] = workloads;
      if (message.includes("listening")) told.resolve(message);
    });
    // Not before interval × retries have passed several times: it is told after a second, or two.
    const first = await Promise.race([ending, told.promise]);
    expect(first).toMatch(/^is not healthy yet(: exit code 1: checked)?; it wrote:\n(.*\n)*listening \d+/);
    cancel.abort();
    expect(await ending).toEqual({ kind: "cancelled" });
  });
}
