import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { ConfigError, describeConfig, loadConfig } from "./config.ts";

const password = "it's 100 % s@fe/?#";

function fileWith(text: string): string {
  const file = join(temporaryFolder(), "password");
  writeFileSync(file, text, { mode: 0o600 });
  return file;
}

test("the database's password comes from a file, whatever is in it, and is not shown", () => {
  const environment = {
    BOWLINE_DATABASE_URL: "postgres://bowline@db.example:5432/bowline",
    BOWLINE_DATABASE_PASSWORD_FILE: fileWith(`${password}\n`),
  };
  const loaded = loadConfig([], environment);
  const url = new URL(loaded.config.databaseUrl);
  expect(decodeURIComponent(url.password)).toBe(password);
  expect(url.host + url.pathname).toBe("db.example:5432/bowline");
  expect(JSON.stringify(describeConfig(loaded))).not.toContain("s@fe");
  expect(JSON.stringify(describeConfig(loaded))).not.toContain(encodeURIComponent("s@fe"));
});

test("a password's file that cannot be used is told before anything starts", () => {
  const url = "postgres://bowline@db.example/bowline";
  const wrong: [url: string, file: string, named: string][] = [
    ["", fileWith("x"), "needs --database-url"],
    ["postgres://db.example/bowline", fileWith("x"), "with a user"],
    ["postgres://bowline:y@db.example/bowline", fileWith("x"), "give one"],
    [url, fileWith("\n"), "is empty"],
    [url, "/does/not/exist", "--database-password-file"],
  ];
  for (const [databaseUrl, file, named] of wrong) {
    const load = () => loadConfig(["--database-url", databaseUrl, "--database-password-file", file], {});
    expect(load).toThrow(ConfigError);
    expect(load).toThrow(named);
  }
});
