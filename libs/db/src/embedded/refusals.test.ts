import {
  chmodSync,
  chownSync,
  statSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import {
  isRunning,
  postgresRefusal,
  query,
  startEmbeddedPostgres,
  startPostgresServer,
  startProcess,
  temporaryFolder,
  until,
} from "@bowline/testing";
import { findBinaries } from "./binaries.ts";
import { chooseRunAs, findAbilities } from "./run-as.ts";

/** An ordinary user who owns root's files: as good as another user, and it reaches a checkout below /root. */
const ordinaryUser = process.getuid?.() === 0 ? ["unshare", "--user", "--map-user=1000", "--map-group=1000"] : [];

test("a second server on one data directory is refused and told who holds it; the first is not disturbed", async () => {
  const dataDir = temporaryFolder();
  const first = await startPostgresServer(dataDir);
  const { reason, message } = await postgresRefusal(dataDir);
  expect(reason).toBe("DATA_DIRECTORY_IN_USE");
  expect(message).toContain(`process ${first.pid}`);
  await expect(startEmbeddedPostgres(dataDir)).rejects.toMatchObject({ reason: "DATA_DIRECTORY_IN_USE" });
  expect(await query(first.postgres.connection, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
});

test("of two servers that start at once on a new data directory one runs and one is refused", async () => {
  const dataDir = temporaryFolder();
  const ends = await Promise.allSettled([startPostgresServer(dataDir), startPostgresServer(dataDir)]);
  expect(ends.map((end) => end.status).sort()).toEqual(["fulfilled", "rejected"]);
});

test("a folder that cannot be written is refused, for an ordinary user", async () => {
  const folder = temporaryFolder();
  chmodSync(folder, 0o500);
  const { reason, message } = await postgresRefusal(join(folder, "postgres"), {}, ordinaryUser);
  chmodSync(folder, 0o700);
  expect(reason).toBe("DATA_DIRECTORY_NOT_WRITABLE");
  expect(message).toContain("permission denied");
});

test("a file where the data directory should be is refused", async () => {
  const file = join(temporaryFolder(), "file");
  writeFileSync(file, "");
  await expect(startEmbeddedPostgres(file)).rejects.toMatchObject({ reason: "DATA_DIRECTORY_NOT_WRITABLE" });
  await expect(startEmbeddedPostgres(join(file, "below"))).rejects.toMatchObject({
    reason: "DATA_DIRECTORY_NOT_WRITABLE",
  });
});

test("data of another major version, or no data at all, is refused and left as it is", async () => {
  const dataDir = temporaryFolder();
  const data = join(dataDir, "data");
  mkdirSync(data);
  writeFileSync(join(data, "something"), "mine");
  await expect(startEmbeddedPostgres(dataDir)).rejects.toMatchObject({ reason: "POSTGRES_DATA_UNUSABLE" });
  writeFileSync(join(data, "PG_VERSION"), "17\n");
  await expect(startEmbeddedPostgres(dataDir)).rejects.toMatchObject({ reason: "POSTGRES_VERSION_MISMATCH" });
  expect(readdirSync(data).sort()).toEqual(["PG_VERSION", "something"]);
});

test("damaged data is refused with PostgreSQL's own words, and nothing is left running", async () => {
  const dataDir = temporaryFolder();
  await (await startEmbeddedPostgres(dataDir)).stop();
  rmSync(join(dataDir, "data", "global", "pg_control"));
  await expect(startEmbeddedPostgres(dataDir)).rejects.toMatchObject({
    reason: "POSTGRES_START_FAILED",
    message: expect.stringContaining("pg_control"),
  });
});

test("a pid file that names a living process of another kind does not keep PostgreSQL from starting", async () => {
  const dataDir = temporaryFolder();
  await (await startEmbeddedPostgres(dataDir)).stop();
  writeFileSync(join(dataDir, "data", "postmaster.pid"), `${process.pid}\n${join(dataDir, "data")}\n`);
  const postgres = await startEmbeddedPostgres(dataDir);
  expect(await query(postgres.connection, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
});

test("a PostgreSQL that a person started on the data is left alone, and the start is refused", async () => {
  const dataDir = temporaryFolder();
  await (await startEmbeddedPostgres(dataDir)).stop();
  const data = join(dataDir, "data");
  const program = join(findBinaries().root, "bin", "postgres");
  const manual = startProcess({
    command: [...ordinaryUser, program, "-D", data, "-k", dataDir, "-c", "listen_addresses="],
  });
  await manual.untilLine("ready to accept connections");
  await expect(startEmbeddedPostgres(dataDir)).rejects.toMatchObject({ reason: "DATA_DIRECTORY_IN_USE" });
  expect(isRunning(manual.pid)).toBe(true);
});

test("without setpriv a PostgreSQL outlives a killed server, and the next start stops it first", async () => {
  const dataDir = temporaryFolder();
  const abilities = { ...(await findAbilities()), setpriv: false };
  const server = await startPostgresServer(dataDir, { abilities });
  await query(server.postgres.connection, "CREATE TABLE kept AS SELECT 7 AS number");
  server.kill("SIGKILL");
  await server.ended;
  expect(isRunning(server.postgres.pid)).toBe(true);

  const next = await startEmbeddedPostgres(dataDir);
  expect(isRunning(server.postgres.pid)).toBe(false);
  expect(await query(next.connection, "SELECT number FROM kept")).toEqual([{ number: 7 }]);
});

test("an ordinary user gets a database as root does", async () => {
  const server = await startPostgresServer(temporaryFolder(), {}, ordinaryUser);
  expect(await query(server.postgres.connection, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
  server.kill("SIGKILL");
  await until(() => !isRunning(server.postgres.pid), { withinMs: 10_000 });
});

test("machines without binaries are named, with the setting that helps", () => {
  for (const platform of [
    { os: "darwin", cpu: "arm64" },
    { os: "linux", cpu: "riscv64" },
    { os: "win32", cpu: "x64" },
  ]) {
    expect(() => findBinaries(platform)).toThrow(
      expect.objectContaining({
        reason: "POSTGRES_PLATFORM_UNSUPPORTED",
        message: expect.stringContaining("BOWLINE_DATABASE_URL"),
      }),
    );
  }
});

/** Only root changes users and gives files away, so for others these tests do not exist; CI runs as root. */
const asRoot: (name: string, run: () => Promise<void>) => void = process.getuid?.() === 0 ? test : () => {};

asRoot(
  "root without user namespaces runs PostgreSQL as another user, and goes back when they are allowed",
  async () => {
    const open = temporaryFolder();
    chmodSync(open, 0o755);
    const dataDir = join(open, "postgres");
    const abilities = { ...(await findAbilities()), userNamespaces: false };
    const dropped = await startPostgresServer(dataDir, { abilities });
    await query(dropped.postgres.connection, "CREATE TABLE kept AS SELECT 7 AS number");
    dropped.kill("SIGKILL");
    await until(() => !isRunning(dropped.postgres.pid), {
      withinMs: 10_000,
      what: "PostgreSQL of the other user has ended",
    });

    const next = await startEmbeddedPostgres(dataDir);
    expect(await query(next.connection, "SELECT number FROM kept")).toEqual([{ number: 7 }]);
  },
);

asRoot(
  "root without user namespaces is told of a reachable folder where the data directory is behind a closed one",
  async () => {
    const closed = temporaryFolder();
    const abilities = { ...(await findAbilities()), userNamespaces: false };
    await expect(startEmbeddedPostgres(join(closed, "postgres"), { abilities })).rejects.toMatchObject({
      reason: "DATA_DIRECTORY_UNREACHABLE",
      message: expect.stringContaining("/var/lib/bowline"),
    });
  },
);

asRoot("root uses the folder that an ordinary user closed to everyone else, as that user", async () => {
  const closed = temporaryFolder();
  chownSync(closed, 4242, 4242);
  const dataDir = join(closed, "postgres");
  const server = await startPostgresServer(dataDir);
  expect(statSync(join(dataDir, "data")).uid).toBe(4242);
  expect(await query(server.postgres.connection, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
  server.kill("SIGKILL");
  await until(() => !isRunning(server.postgres.pid), { withinMs: 10_000 });
});

asRoot("a user without a name, as containers have them, gets a database too", async () => {
  const unnamed = ["unshare", "--user", "--map-user=4242", "--map-group=4242"];
  const server = await startPostgresServer(temporaryFolder(), {}, unnamed);
  expect(await query(server.postgres.connection, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
});

asRoot("programs behind a closed folder are copied once to where PostgreSQL's user can read them", async () => {
  const closed = temporaryFolder();
  const open = temporaryFolder();
  chmodSync(open, 0o755);
  const binaries = findBinaries();
  const hidden = { ...binaries, root: join(closed, "native"), packageVersion: `test-${process.pid}` };
  cpSync(binaries.root, hidden.root, { recursive: true, verbatimSymlinks: true });
  const abilities = { uid: 0, gid: 0, userNamespaces: false, setpriv: true };
  const { binariesRoot } = chooseRunAs(join(open, "postgres"), true, hidden, abilities);
  try {
    expect(binariesRoot).not.toBe(hidden.root);
    expect(existsSync(join(binariesRoot, "bin", "postgres"))).toBe(true);
    expect(chooseRunAs(join(open, "postgres"), true, hidden, abilities).binariesRoot).toBe(binariesRoot);
  } finally {
    rmSync(binariesRoot, { recursive: true, force: true });
  }
});
