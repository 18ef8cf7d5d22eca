import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { server } from "./place.ts";
import type { Subject } from "./place.ts";

const mounts = [{ source: { case: "volume" as const, value: "data" }, path: "/data" }];

export function volumeTests(subject: () => Subject): void {
  test("a volume outlives the instance that wrote to it", async () => {
    const s = subject();
    const volumes = [{ name: "data" }];
    await s.run([server(s.place, { mounts })], { volumes });
    await s.order("web", "store?file=data/note&text=hello");
    await s.run([server(s.place, { mounts, environment: { VERSION: "2" } })], { volumes });
    expect(await s.order("web", "load?file=data/note")).toBe("hello");
  });

  test("the agent can write what a workload reads", async () => {
    const s = subject();
    await s.run([server(s.place, { mounts })], { volumes: [{ name: "data" }] });
    const path = await s.runtime.volumePath(s.id, "data");
    if (path === undefined) return; // a runtime that cannot offer one says so
    await s.order("web", "store?file=data/note&text=hello");
    expect(await readFile(join(path, "note"), "utf8")).toBe("hello");
    expect(await s.runtime.volumePath(s.id, "other")).toBeUndefined();
    expect(await s.runtime.volumePath("deployment_other", "data")).toBeUndefined();
  });

  test("a volume goes with its deployment; a kept one stays until its removal is asked for", async () => {
    const s = subject();
    const volumes = [{ name: "data" }, { name: "precious", keep: true }];
    const both = [...mounts, { source: { case: "volume" as const, value: "precious" }, path: "/precious" }];
    await s.run([server(s.place, { mounts: both })], { volumes });
    await s.order("web", "store?file=data/note&text=a");
    await s.order("web", "store?file=precious/note&text=b");
    await s.absent();
    expect(await s.place.leftovers()).toHaveLength(1);

    await s.run([server(s.place, { mounts: both })], { volumes });
    expect(await s.order("web", "load?file=data/note")).toBe("");
    expect(await s.order("web", "load?file=precious/note")).toBe("b");
    await s.absent({ removeVolumes: true });
    expect(await s.place.leftovers()).toEqual([]);
  });

  test("kept volumes are removed later too, when nothing else is left", async () => {
    const s = subject();
    await s.run([server(s.place, { mounts })], { volumes: [{ name: "data", keep: true }] });
    await s.absent();
    expect(await s.place.leftovers()).toHaveLength(1);
    await s.absent({ removeVolumes: true });
    expect(await s.place.leftovers()).toEqual([]);
  });

  test("a file is there, cannot be written, and a changed one replaces the instance", async () => {
    const s = subject();
    const withFile = [{ source: { case: "file" as const, value: "settings" }, path: "/etc/settings.json" }];
    const files = (text: string) => [{ name: "settings", content: Buffer.from(text), mode: 0o644 }];
    await s.run([server(s.place, { mounts: withFile })], { files: files("one") });
    const { run } = await s.about("web");
    expect(await s.order("web", "load?file=etc/settings.json")).toBe("one");
    expect(Number(await s.order("web", "mode?file=etc/settings.json")) & 0o222).toBe(0);
    await s.run([server(s.place, { mounts: withFile })], { files: files("two") });
    expect(await s.order("web", "load?file=etc/settings.json")).toBe("two");
    expect((await s.about("web")).run).not.toBe(run);
  });
}
