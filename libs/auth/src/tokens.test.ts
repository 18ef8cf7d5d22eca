import { expect, test } from "@jest/globals";
import { isId } from "@bowline/kernel";
import { hashSecret, matches, newToken, parseToken } from "./tokens.ts";

test("a new token reads back, its id is a resource's suffix, and its hash is of its secret", () => {
  for (const prefix of ["bwr", "bwt"] as const) {
    const token = newToken(prefix);
    const parsed = parseToken(token.text);
    expect(parsed).toMatchObject({ prefix, id: token.id });
    expect(isId("rt", `rt_${token.id}`)).toBe(true);
    expect(matches(token.hash, parsed?.secret ?? "")).toBe(true);
    expect(token.text).toHaveLength(prefix.length + 1 + 26 + 1 + 43);
  }
});

test("another secret, a shorter hash and an empty one do not match", () => {
  const token = newToken("bwr");
  expect(matches(token.hash, "other")).toBe(false);
  expect(matches(token.hash.slice(1), parseToken(token.text)?.secret ?? "")).toBe(false);
  expect(matches(new Uint8Array(), "")).toBe(false);
  expect(hashSecret("")).toHaveLength(32);
});

test("a secret may hold underscores and dashes", () => {
  const secret = `_-_${"a".repeat(37)}_-_`;
  expect(parseToken(`bwr_${newToken("bwr").id}_${secret}`)?.secret).toBe(secret);
});

test("what is not a token is not read", () => {
  const { text } = newToken("bwr");
  for (const wrong of [
    "",
    "bwr",
    "bwr__",
    `x${text}`,
    `${text}x`,
    `${text}\n`,
    text.toUpperCase(),
    text.replace("bwr", "bwk"),
  ]) {
    expect(parseToken(wrong)).toBeUndefined();
  }
});
