import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { isId, lowestId, newId, parseId } from "./ids.ts";

test("an id says its kind and when it was made", () => {
  const id = newId("cluster", 1_700_000_000_123);
  expect(id).toMatch(/^cluster_[0-7][0-9a-hjkmnp-tv-z]{25}$/);
  expect(parseId(id)).toMatchObject({ prefix: "cluster", createdAtMs: 1_700_000_000_123 });
  expect(parseId(id)?.uuid).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
});

test("the specification's example reads as its UUID", () => {
  expect(parseId("prefix_01h455vb4pex5vsknk084sn02q")).toMatchObject({
    prefix: "prefix",
    uuid: "01890a5d-ac96-774b-bcce-b302099a8057",
  });
});

test("ids sort by the millisecond of their making", () => {
  fc.assert(fc.property(fc.integer({ min: 0, max: 2 ** 48 - 2 }), (ms) => newId("agent", ms) < newId("agent", ms + 1)));
});

test("ids that one process makes in one millisecond rise", () => {
  for (const ms of [1, 1_700_000_000_123]) {
    const ids = Array.from({ length: 2_000 }, () => newId("agent", ms));
    expect(ids.toSorted()).toEqual(ids);
  }
});

test("a lowest id parts those made before its time from the others", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 48 - 1 }), (ms) => {
      const bound = lowestId("agent", ms);
      return isId("agent", bound) && newId("agent", ms - 1) < bound && bound < newId("agent", ms);
    }),
  );
  expect(() => lowestId("agent", -1)).toThrow(RangeError);
});

test("ten thousand ids of one millisecond differ", () => {
  const ids = new Set(Array.from({ length: 10_000 }, () => newId("command", 1)));
  expect(ids.size).toBe(10_000);
});

test("an id of another kind is not an id of this kind", () => {
  expect(isId("cluster", newId("cluster"))).toBe(true);
  expect(isId("agent", newId("cluster"))).toBe(false);
  expect(isId("token", newId("registration_token"))).toBe(false);
});

test("what is not an id is refused, whatever its type", () => {
  const suffix = newId("a").slice(2);
  for (const value of ["", "_", suffix, `_${suffix}`, `A_${suffix}`, `a_${suffix.toUpperCase()}`, `a__${suffix}`]) {
    expect(parseId(value)).toBeUndefined();
  }
  expect(parseId("a_80000000000000000000000000")).toBeUndefined(); // 129 bits
  expect(parseId(`a_${suffix.slice(0, 25)}l`)).toBeUndefined(); // not in the alphabet
  expect(parseId(`${"a".repeat(64)}_${suffix}`)).toBeUndefined();
  for (const value of [undefined, null, 7, {}, `a_${suffix}\n`]) expect(isId("a", value)).toBe(false);
});

test("any text is read without an exception", () => {
  fc.assert(fc.property(fc.string({ unit: "binary" }), (text) => parseId(text) === undefined || text.length > 27));
});

test("a prefix that the format does not know is a mistake of the caller", () => {
  for (const prefix of ["", "A", "_a", "a_", "a1", "a".repeat(64)]) expect(() => newId(prefix)).toThrow(RangeError);
  for (const ms of [-1, 0.5, 2 ** 48, Number.NaN]) expect(() => newId("a", ms)).toThrow(RangeError);
});
