/** `agent install` and `agent uninstall` below a folder of the test, as for an image: nothing of this host is touched. */
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "@jest/globals";
import { runProcess, startProcess, temporaryFolder } from "@bowline/testing";
import { foreignEntry } from "./host-files.ts";
import { environmentText, readAllEnvironment, readEnvironment, unitText } from "./systemd.ts";

const program = fileURLToPath(new URL("main.ts", import.meta.url));
const server = "https://bowline.example.com";
const secret = `bwr_01k3_${"s".repeat(43)}`;

function host() {
  const root = temporaryFolder();
  const tokenFile = join(temporaryFolder(), "token");
  writeFileSync(tokenFile, `${secret}\n`, { mode: 0o600 });
  const env = {
    HTTPS_PROXY: "",
    HTTP_PROXY: "",
    NO_PROXY: "",
    npm_lifecycle_event: "",
    BOWLINE_REGISTRATION_TOKEN: "",
  };
  const bowline = (args: readonly string[], more: { env?: object; prefix?: readonly string[] } = {}) =>
    runProcess({ command: [...(more.prefix ?? []), "node", program, "agent", ...args], env: { ...env, ...more.env } });
  return {
    root,
    unit: join(root, "etc/systemd/system/bowline-agent.service"),
    settings: join(root, "etc/bowline/bowline-agent.env"),
    dataDir: join(root, "var/lib/bowline"),
    bowline,
    install: (...args: string[]) => bowline(["install", server, "--token-file", tokenFile, "--root", root, ...args]),
    uninstall: (...args: string[]) => bowline(["uninstall", "--root", root, ...args]),
  };
}

test("a dry run prints both files and what would be run, writes nothing, and shows no secret", async () => {
  const { root, bowline } = host();
  const run = await bowline(["install", server, "--token-stdin", "--root", root, "--user", "bowline", "--dry-run"], {
    env: { BOWLINE_REGISTRATION_TOKEN: secret, HTTPS_PROXY: "http://me:s3cret@proxy:3128", NO_PROXY: ".corp" },
    prefix: ["sh", "-c", `echo ${secret} | exec "$@"`, "sh"],
  });
  expect(run).toMatchObject({ code: 0, stderr: "" });
  expect(run.stdout).toContain("User=bowline");
  expect(run.stdout).toContain('BOWLINE_REGISTRATION_TOKEN="(hidden)"');
  expect(run.stdout).toContain('HTTPS_PROXY="(hidden)"');
  expect(run.stdout).toContain('NO_PROXY=".corp"');
  expect(run.stdout).toContain("systemctl enable bowline-agent.service");
  expect(run.stdout).not.toContain(secret);
  expect(run.stdout).not.toContain("s3cret");
  expect(readdirSync(root)).toEqual([]);
});

test("the token is in a file of mode 0600 and nowhere else; systemd finds nothing wrong with the unit", async () => {
  const { install, unit, settings, dataDir } = host();
  const run = await install("--name", "press-1", "--label", "hall=3", "--key-max-age", "90d", "-o", "json");
  expect(run.code).toBe(0);
  expect(JSON.parse(run.stdout)).toMatchObject({
    dryRun: false,
    ran: [],
    next: [expect.stringContaining("systemctl"), expect.anything(), expect.anything()],
  });
  expect(run.stdout + readFileSync(unit, "utf8")).not.toContain(secret);
  expect(statSync(settings).mode & 0o777).toBe(0o600);
  expect(statSync(dataDir).mode & 0o777).toBe(0o700);
  const text = readFileSync(settings, "utf8");
  expect(readEnvironment(text, "BOWLINE_REGISTRATION_TOKEN")).toBe(secret);
  expect(readEnvironment(text, "BOWLINE_SERVER")).toBe(server);
  expect(readEnvironment(text, "BOWLINE_AGENT_LABELS")).toBe("hall=3");
  const lines = readFileSync(unit, "utf8").split("\n");
  for (const line of [
    "Restart=always",
    "RestartPreventExitStatus=4",
    "KillMode=process",
    "NoNewPrivileges=yes",
    "UMask=0077",
  ]) {
    expect(lines).toContain(line);
  }
  const verified = await verify(unit);
  expect(verified).toEqual([]);
});

/** What systemd says about our unit; nothing where there is no systemd, whose words are then for a host that has it. */
async function verify(unit: string): Promise<string[]> {
  const run = await runProcess({
    command: [
      "sh",
      "-c",
      'command -v systemd-analyze >/dev/null || exit 0; exec systemd-analyze verify --man=no "$1"',
      "sh",
      unit,
    ],
  });
  return `${run.stdout}${run.stderr}`.split("\n").filter((line) => line.includes("bowline-agent"));
}

test("installed again with the same it changes nothing; with other settings it asks first", async () => {
  const { install, unit, settings } = host();
  await install();
  const before = [unit, settings].map((file) => statSync(file).ino);
  const again = await install();
  expect(again).toMatchObject({ code: 0, stdout: expect.stringContaining("Is there already") });
  expect([unit, settings].map((file) => statSync(file).ino)).toEqual(before);
  const other = await install("--name", "press-2");
  expect(other).toMatchObject({ code: 2, stderr: expect.stringContaining("NEEDS_YES") });
  expect([unit, settings].map((file) => statSync(file).ino)).toEqual(before);
  expect((await install("--name", "press-2", "--yes")).code).toBe(0);
  expect(readEnvironment(readFileSync(settings, "utf8"), "BOWLINE_AGENT_NAME")).toBe("press-2");
});

test("who is not root is refused and told what to do; nothing is written", async () => {
  const { bowline } = host();
  const prefix = process.getuid?.() === 0 ? ["unshare", "--user"] : [];
  const refused = await bowline(["install", server, "--unit", "bowline-test-of-install"], {
    prefix,
    env: { BOWLINE_REGISTRATION_TOKEN: secret },
  });
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/sudo.*--dry-run[^]*NOT_ROOT/) });
  expect(() => statSync("/etc/systemd/system/bowline-test-of-install.service")).toThrow("ENOENT");
});

test("whose files are in a folder is found below it too, where the agent's own are, and no folder has nobody's", async () => {
  const folder = temporaryFolder();
  mkdirSync(join(folder, "journal"));
  writeFileSync(join(folder, "journal", "journal.log"), "");
  const { uid } = statSync(folder);
  expect(await foreignEntry(folder, uid)).toBeUndefined();
  expect(await foreignEntry(folder, uid + 1)).toBe(join(folder, "journal"));
  expect(await foreignEntry(join(folder, "journal"), uid + 1)).toBe(join(folder, "journal", "journal.log"));
  expect(await foreignEntry(join(folder, "none"), uid)).toBeUndefined();
});

/** Others may not always mount in a namespace of theirs, so for them these tests do not exist; CI runs as root. */
const asRoot: (name: string, run: () => Promise<void>) => void = process.getuid?.() === 0 ? test : () => {};

/**
 * A host of its own: its /etc and /run are folders of the test, and its systemctl is a script, so that what is done to a
 * real host can be seen without one.
 */
function wholeHost(systemctl: string) {
  const { bowline } = host();
  const root = temporaryFolder();
  for (const folder of ["etc/systemd/system", "run/systemd/system", "bin"])
    mkdirSync(join(root, folder), { recursive: true });
  writeFileSync(join(root, "etc/passwd"), "me:x:0:0:::\npress:x:4242:4242:::\n");
  writeFileSync(join(root, "bin/systemctl"), `#!/bin/sh\n${systemctl}\n`, { mode: 0o755 });
  const inside = `mount --bind "${root}/etc" /etc && mount --bind "${root}/run" /run && exec "$@"`;
  const prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside, "sh"];
  const env = { PATH: `${join(root, "bin")}:${process.env["PATH"]}`, BOWLINE_REGISTRATION_TOKEN: secret };
  const dataDir = join(root, "data");
  return {
    root,
    dataDir,
    unit: join(root, "etc/systemd/system/bowline-agent.service"),
    install: (...args: string[]) => bowline(["install", server, "--data-dir", dataDir, ...args], { prefix, env }),
    uninstall: (...args: string[]) => bowline(["uninstall", ...args], { prefix, env }),
  };
}

asRoot(
  "a folder with another user's files is not given to an agent that could not read them; nothing is written",
  async () => {
    const { install, dataDir, unit } = wholeHost("exit 0");
    mkdirSync(join(dataDir, "journal"), { recursive: true });
    writeFileSync(join(dataDir, "journal", "journal.log"), "");
    const refused = await install("--user", "press");
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("DATA_DIR_OF_ANOTHER_USER") });
    expect(refused.stderr).toContain(`chown -R press: ${dataDir}\n`);
    expect(() => statSync(unit)).toThrow("ENOENT");
    expect((await install("--user", "me")).code).toBe(0);
    expect(readFileSync(unit, "utf8")).toContain("User=me");
  },
);

asRoot("--purge looks again once the agent is stopped: what it started meanwhile keeps its folder", async () => {
  const id = "runtime-that-is-late";
  const pidFile = join(temporaryFolder(), "pid");
  // The process writes its own pid, so systemctl ends only once it runs with the variable it is found by.
  const program = `BOWLINE_RUNTIME=${id} sh -c 'echo $$ > "${pidFile}"; exec sleep 600' >/dev/null 2>&1 &`;
  const late = `[ "$1" != disable ] || { ${program} while ! [ -s "${pidFile}" ]; do sleep 0.01; done; }`;
  const { install, uninstall, dataDir, unit } = wholeHost(late);
  expect((await install()).code).toBe(0);
  writeFileSync(join(dataDir, "signing-key.json"), "{}");
  writeFileSync(join(dataDir, "runtime.json"), JSON.stringify({ id }));
  const refused = await uninstall("--purge", "--yes");
  const pid = Number(readFileSync(pidFile, "utf8"));
  process.kill(pid);
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining(`kill ${pid}`) });
  expect(refused.stderr).toContain("The service is stopped, and nothing was removed");
  for (const path of [unit, join(dataDir, "signing-key.json")]) expect(statSync(path).isFile()).toBe(true);
});

test("without a token a folder that has not enrolled is refused, one that has is not", async () => {
  const { root, bowline, dataDir } = host();
  const install = () => bowline(["install", server, "--root", root]);
  expect(await install()).toMatchObject({ code: 2, stderr: expect.stringContaining("--token-file") });
  mkdirSync(dataDir, { recursive: true });
  writeFileSync(join(dataDir, "agent.json"), "{}");
  expect((await install()).code).toBe(0);
});

test.each([
  ["a unit's name with a path", ["--unit", "../../x"]],
  ["a user's name with a line break", ["--user", "me\nExecStart=/bin/sh"]],
  ["a name with a line break", ["--name", "me\nLD_PRELOAD=x"]],
])("%s is refused, and nothing is written", async (_, flags) => {
  const { root, install } = host();
  expect((await install(...flags)).code).toBe(2);
  expect(readdirSync(root)).toEqual([]);
});

test("uninstall keeps the data folder and says so; --purge removes it, but not while something of it runs, nor another folder", async () => {
  const { install, uninstall, unit, settings, dataDir } = host();
  await install();
  const runtime = { id: "runtime-of-the-test" };
  writeFileSync(join(dataDir, "signing-key.json"), "{}");
  writeFileSync(join(dataDir, "runtime.json"), JSON.stringify(runtime));
  expect(await uninstall()).toMatchObject({ code: 2, stderr: expect.stringContaining("NEEDS_YES") });
  const kept = await uninstall("--yes");
  expect(kept).toMatchObject({ code: 0, stderr: expect.stringContaining(`stays in ${dataDir}`) });
  for (const file of [unit, settings]) expect(() => statSync(file)).toThrow("ENOENT");
  expect(await uninstall("--yes")).toMatchObject({ code: 1, stderr: expect.stringContaining("NOT_INSTALLED") });

  await install();
  const workload = startProcess({ command: ["sleep", "600"], env: { BOWLINE_RUNTIME: runtime.id } });
  const refused = await uninstall("--purge", "--yes");
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/kill \d+[^]*WORKLOADS_RUN/) });
  expect(statSync(unit).isFile()).toBe(true);
  await workload.end();
  const purged = await uninstall("--purge", "--yes", "-o", "json");
  expect(JSON.parse(purged.stdout)).toMatchObject({ removed: [unit, settings, dataDir], kept: [] });
  expect(() => statSync(dataDir)).toThrow("ENOENT");

  await install();
  writeFileSync(join(dataDir, "somebody's"), "");
  expect(await uninstall("--purge", "--yes")).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("DATA_DIR_UNKNOWN"),
  });
}, 120_000);

test("what is written is read back as it was, by us and by a shell", async () => {
  const settings = { A: 'a "quoted" \\ $HOME `date` word', B: "umlaut ä; # no comment", C: undefined };
  const text = environmentText(settings);
  expect(readEnvironment(text, "A")).toBe(settings.A);
  expect(readAllEnvironment(text)).toEqual({ A: settings.A, B: settings.B });
  const file = join(temporaryFolder(), "env");
  writeFileSync(file, text);
  const shell = await runProcess({ command: ["sh", "-c", '. "$1"; printf "%s|%s" "$A" "$B"', "sh", file] });
  expect(shell.stdout).toBe(`${settings.A}|${settings.B}`);
  expect(() => environmentText({ A: "two\nlines" })).toThrow(RangeError);
});

test("a path with spaces, quotes, dollars and percent signs reaches the program as it is", () => {
  const text = unitText({
    name: "a",
    command: ["/opt/a b/node", '/x/"$HOME"%h.ts'],
    environmentFile: "/e",
    runtime: "local",
    user: "",
  });
  expect(text).toContain('ExecStart="/opt/a b/node" "/x/\\"$$HOME\\"%%h.ts"');
});
