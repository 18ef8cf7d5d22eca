import { expect, test } from "@jest/globals";
import { pullCounter, sayBytes } from "./pulls.ts";

const downloading = (id: string, current: number, total: number) => ({
  id,
  status: "Downloading",
  progressDetail: { current, total },
});

test("bytes of all layers add up, never go back when they are unpacked, and end at the whole", () => {
  const count = pullCounter();
  expect(count({ id: "1", status: "Pulling from shop/web" })).toBeUndefined();
  expect(count(downloading("a", 10, 100))).toEqual({ received: 10, total: 100 });
  expect(count(downloading("b", 50, 50))).toEqual({ received: 60, total: 150 });
  expect(count({ id: "a", status: "Extracting", progressDetail: { current: 1, total: 100 } })).toBeUndefined();
  expect(count({ id: "a", status: "Download complete" })).toEqual({ received: 150, total: 150 });
  expect(count({ id: "a", status: "Pull complete" })).toBeUndefined();
});

test("a layer of unknown size counts for nothing", () => {
  const count = pullCounter();
  expect(count({ id: "a", status: "Downloading", progressDetail: { current: 10 } })).toBeUndefined();
  expect(count({ id: "a", status: "Download complete" })).toBeUndefined();
});

test("bytes are said in the unit of the whole", () => {
  expect(sayBytes({ received: 400, total: 1_500 })).toBe("0.4 of 1.5 kB");
  expect(sayBytes({ received: 12_340_000, total: 45_000_000 })).toBe("12.3 of 45.0 MB");
  expect(sayBytes({ received: 5e8, total: 2e9 })).toBe("0.5 of 2.0 GB");
});
