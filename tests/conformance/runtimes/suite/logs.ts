import { expect, test } from "@jest/globals";
import { until } from "@bowline/testing";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

export function logTests(subject: () => Subject): void {
  const read = async (s: Subject, lines: number): Promise<string> => {
    let text = "";
    for await (const bytes of s.runtime.logs(s.id, "web", 0, { lines, follow: false }, new AbortController().signal)) {
      text += Buffer.from(bytes).toString("utf8");
    }
    return text;
  };

  test("the last lines, no more and no fewer", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    await s.order("web", `write?text=${encodeURIComponent("one\ntwo\nthree\n")}`);
    await until(async () => (await read(s, 10)).includes("three"));
    expect(await read(s, 2)).toBe("two\nthree\n");
    expect(await read(s, 0)).toBe("");
    expect((await read(s, 100)).split("\n")[0]).toMatch(/^listening/);
  });

  test("following gives what is written later, also after a restart of the instance", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const done = new AbortController();
    let text = "";
    const following = (async () => {
      for await (const bytes of s.runtime.logs(s.id, "web", 0, { lines: 0, follow: true }, done.signal))
        text += Buffer.from(bytes).toString();
    })();
    // Nothing says when it listens; what was written before then is not later.
    await until(async () => {
      await s.order("web", `write?text=${encodeURIComponent("first\n")}`);
      return text.includes("first");
    });
    await s.order("web", "exit?code=1");
    await until(() => /first\n[^]*listening/.test(text));
    done.abort();
    await following;
  });

  test("output is bounded, and a follower misses nothing of what it reads in time", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const line = `${"x".repeat(1023)}\n`;
    const total = Math.ceil((6 * s.place.logBytes) / line.length);
    for (let written = 0; written < total; written += 16) {
      await s.order("web", `write?text=${encodeURIComponent(line)}&times=16`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await until(async () => (await read(s, 1_000_000)).length <= 2 * s.place.logBytes + 64 * 1024);
    await until(async () => (await read(s, 3)) === line.repeat(3)); // the last of it is on its way
  });

  test("output that comes while no agent is there is kept", async () => {
    const s = subject();
    await s.run([server(s.place)]);
    const upstream = await s.runtime.upstream(s.id, "web", "http");
    await s.runtime.close({ stopWorkloads: false });
    await fetch(`http://127.0.0.1:${upstream?.port}/write?text=alone%0A`, {
      method: "POST",
      headers: { connection: "close" },
    });
    s.runtime = await s.place.open();
    await until(async () => (await read(s, 1)) === "alone\n");
  });

  test("there are no logs of what is not there", async () => {
    expect(await read(subject(), 10)).toBe("");
  });
}
