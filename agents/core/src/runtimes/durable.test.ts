import { readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { readDurable, writeDurably } from "./durable.ts";

test("writes of one file follow each other: the last call's content stays", async () => {
  const folder = temporaryFolder();
  const path = join(folder, "state.json");
  await Promise.all(Array.from({ length: 20 }, (_, number) => writeDurably(path, { number })));
  expect(await readDurable(path)).toEqual({ number: 19 });
  expect(readdirSync(folder)).toEqual(["state.json"]);
});

test("a write takes the value as it is at the call", async () => {
  const path = join(temporaryFolder(), "state.json");
  const state = { phase: "running" };
  const first = writeDurably(path, state);
  state.phase = "stopped";
  await first;
  expect(await readDurable(path)).toEqual({ phase: "running" });
});

test("a write that fails fails alone", async () => {
  const folder = join(temporaryFolder(), "gone");
  const path = join(folder, "state.json");
  const [first, second] = await Promise.allSettled([writeDurably(path, 1), writeDurably(path, 2)]);
  expect([first.status, second.status]).toEqual(["rejected", "rejected"]);
});
