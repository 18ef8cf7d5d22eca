import { expect, test } from "@jest/globals";
import fc from "fast-check";
import { normalisePath, readHost, readTarget } from "./paths.ts";

const nasty = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        "/",
        ".",
        "..",
        "%2e",
        "%2E",
        "%2f",
        "%5C",
        ";",
        "%3b",
        "%00",
        "%",
        "a",
        "%61",
        "\\",
        "//",
        "é",
        "%C3%A9",
      ),
      fc.string({ maxLength: 3 }),
    ),
    { maxLength: 10 },
  )
  .map((parts) => `/${parts.join("")}`);

test("a path in its one form stays as it is", () => {
  fc.assert(
    fc.property(nasty, (path) => {
      const normal = normalisePath(path);
      if (normal !== undefined) expect(normalisePath(normal)).toBe(normal);
    }),
  );
});

test("no decoder, however often and eagerly it decodes separators, finds a way up in what passes", () => {
  fc.assert(
    fc.property(nasty, (path) => {
      const normal = normalisePath(path);
      if (normal === undefined) return;
      expect(normal).toMatch(/^\/[\x21-\x7e]*$/);
      const eager = normal.replace(/%2F|%5C|\\/gi, "/").replace(/%2E/gi, ".");
      for (const segment of eager.split("/")) expect(segment.split(/;|%3B/i)[0]).not.toMatch(/^\.\.?$/);
    }),
    { numRuns: 2_000 },
  );
});

test("what is ordinary stays as it came", () => {
  for (const path of ["/", "/a//b", "/a.b/..c/.d", "/caf%C3%A9", "/a%2Fb", "/x;v=1", "/a|b{c}\"'"]) {
    expect(normalisePath(path)).toBe(path);
  }
  expect(normalisePath("/a/./b/../c/")).toBe("/a/c/");
  expect(normalisePath("/a/..")).toBe("/");
  expect(normalisePath("/%41%7e%c3")).toBe("/A~%C3");
});

test("a target is a path or an absolute one of http", () => {
  expect(readTarget("/a?b=/../c")).toEqual({ authority: undefined, path: "/a", search: "?b=/../c" });
  expect(readTarget("HTTP://h.test:80?x")).toEqual({ authority: "h.test:80", path: "/", search: "?x" });
  for (const target of ["*", "a", "https://h/", "/a#b", "/a?b#c", "//\\", ""])
    expect(readTarget(target)).toBeUndefined();
});

test("a host is a name or an address, in lower case, without its port and last dot", () => {
  expect(readHost("A.Test:8080")).toBe("a.test");
  expect(readHost("a.test.")).toBe("a.test");
  expect(readHost("[::1]:80")).toBe("[::1]");
  for (const host of ["", "a b", "a@b", "a/b", "a:b:c", "a..b", "-a", ":80", "[::1", "x".repeat(300)]) {
    expect(readHost(host)).toBeUndefined();
  }
});
