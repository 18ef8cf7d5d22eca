import { expect, test } from "@jest/globals";
import { originsOf } from "./cors.ts";

test("origins are exact ones, or * alone, or none", () => {
  expect(originsOf("")).toEqual([]);
  expect(originsOf("*")).toEqual(["*"]);
  expect(originsOf("https://a.example, http://localhost:5173")).toEqual(["https://a.example", "http://localhost:5173"]);
});

test.each([
  "a.example",
  "https://a.example/",
  "https://a.example/path",
  "https://*.example",
  "https://A.example",
  "https://a.example:443",
  "ftp://a.example",
  "null",
  "*,https://a.example",
])("%s is refused, because no browser would send it or it would mean more than it says", (setting) => {
  expect(() => originsOf(setting)).toThrow("is no origin");
});
