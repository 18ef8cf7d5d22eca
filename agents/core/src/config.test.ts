import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { temporaryFolder } from "@bowline/testing";
import { ConfigError, readConfig } from "./config.ts";

const server = ["--server", "https://bowline.example.com/"];

test("a flag is over the environment, and the environment over the default", () => {
  const environment = { BOWLINE_AGENT_NAME: "press-1", BOWLINE_LOG_LEVEL: "warn", BOWLINE_AGENT_LABELS: "a=1,b=" };
  const config = readConfig([...server, "--name", "press-2"], environment);
  expect(config).toMatchObject({ name: "press-2", logLevel: "warn", labels: { a: "1", b: "" } });
  expect(config.server).toBe("https://bowline.example.com");
  expect(readConfig(server, {})).toMatchObject({
    name: "",
    logLevel: "info",
    labels: {},
    registrationToken: undefined,
  });
});

test("clear text beyond this host needs --insecure", () => {
  for (const here of ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:1"]) {
    expect(readConfig(["--server", here], {}).server).toBe(here);
  }
  expect(() => readConfig(["--server", "http://example.com"], {})).toThrow("--insecure");
  expect(() => readConfig(["--server", "http://127.0.0.1.example.com"], {})).toThrow("--insecure");
  expect(readConfig(["--server", "http://example.com", "--insecure"], {}).server).toBe("http://example.com");
});

test("the token comes from a file or the environment, and a file that is gone is no error", () => {
  const file = join(temporaryFolder(), "token");
  writeFileSync(file, "bwr_x\n");
  expect(readConfig([...server, "--token-file", file], {}).registrationToken).toBe("bwr_x");
  expect(readConfig([...server, "--token-file", `${file}.gone`], {}).registrationToken).toBeUndefined();
  expect(readConfig(server, { BOWLINE_REGISTRATION_TOKEN: " bwr_y " }).registrationToken).toBe("bwr_y");
  expect(() => readConfig([...server, "--token", "bwr_x"], {})).toThrow(ConfigError);
});

test("what the owner denies comes from flags or the environment, and takes along what would get round it", () => {
  const denied = (args: string[], environment = {}) => [...readConfig([...server, ...args], environment).deny];
  expect(denied([])).toEqual([]);
  expect(denied(["--deny", "exec, published-ports", "--deny", "devices"])).toEqual([
    ...["exec", "published-ports", "devices", "privileged"],
  ]);
  expect(denied([], { BOWLINE_AGENT_DENY: "foreign-containers" })).toEqual(["foreign-containers"]);
  expect(denied(["--deny", "exec"], { BOWLINE_AGENT_DENY: "devices" })).toEqual(["exec"]);
});

test("what cannot be used is named", () => {
  const wrong: [string[], string][] = [
    [[], "--server"],
    [["--server", "ftp://example.com"], "--server"],
    [["--server", "https://me:secret@example.com"], "--server"],
    [[...server, "--name", "Press One"], "--name"],
    [[...server, "--label", "nothing"], "--label"],
    [[...server, "--log-level", "loud"], "--log-level"],
    [[...server, "--ca-file", "/does/not/exist"], "--ca-file"],
    [[...server, "--token-stdin", "--lifeline-stdin"], "--token-stdin"],
    [[...server, "--colour"], "--colour"],
    [[...server, "--deny", "exec,root"], "--deny root"],
    [[...server, "--deny", "host-paths", "--allow-host-paths"], "--allow-host-paths"],
  ];
  for (const [args, named] of wrong) expect(() => readConfig(args, {})).toThrow(named);
});
