import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import {
  childrenOf,
  isRunning,
  query,
  startEmbeddedPostgres,
  startPostgresServer,
  temporaryFolder,
  until,
} from "@bowline/testing";

test("a new database is UTF-8 with C.UTF-8, has checksums, is durable and listens on no network", async () => {
  const postgres = await startEmbeddedPostgres(join(temporaryFolder(), "postgres"));
  expect(postgres.created).toBe(true);
  expect(
    await query(
      postgres.connection,
      `SELECT pg_encoding_to_char(encoding) AS encoding, datlocale AS locale, datlocprovider AS provider,
              current_setting('data_checksums') AS checksums, current_setting('fsync') AS fsync,
              current_setting('synchronous_commit') AS commit, current_setting('listen_addresses') AS network
         FROM pg_database WHERE datname = current_database()`,
    ),
  ).toEqual([
    { encoding: "UTF8", locale: "C.UTF-8", provider: "b", checksums: "on", fsync: "on", commit: "on", network: "" },
  ]);
  expect(statSync(postgres.connection.host).mode & 0o777).toBe(0o700);
});

test("a second start creates nothing and finds what was committed; a stop leaves no socket and no process", async () => {
  const dataDir = temporaryFolder();
  const first = await startEmbeddedPostgres(dataDir);
  await query(first.connection, "CREATE TABLE kept AS SELECT 7 AS number");
  const pid = first.pid();
  await first.stop();
  expect(await first.ended).toEqual({ kind: "stopped" });
  expect(isRunning(pid)).toBe(false);
  expect(existsSync(first.connection.host)).toBe(false);

  const second = await startEmbeddedPostgres(dataDir);
  expect(second.created).toBe(false);
  expect(await query(second.connection, "SELECT number FROM kept")).toEqual([{ number: 7 }]);
});

test("kill -9 of the server ends PostgreSQL within 10 s and loses nothing that was committed", async () => {
  const dataDir = temporaryFolder();
  const server = await startPostgresServer(dataDir);
  await query(server.postgres.connection, "CREATE TABLE kept AS SELECT 7 AS number");
  server.kill("SIGKILL");
  await until(() => !isRunning(server.postgres.pid), { withinMs: 10_000, what: "PostgreSQL has ended" });

  const next = await startEmbeddedPostgres(dataDir);
  expect(next.created).toBe(false);
  expect(await query(next.connection, "SELECT number FROM kept")).toEqual([{ number: 7 }]);
});

test("a start right after kill -9 of the server waits for the old PostgreSQL and succeeds", async () => {
  const dataDir = temporaryFolder();
  const server = await startPostgresServer(dataDir);
  server.kill("SIGKILL");
  await server.ended;
  const next = await startEmbeddedPostgres(dataDir);
  expect(await query(next.connection, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
});

test("a killed PostgreSQL is started again at the same address", async () => {
  const postgres = await startEmbeddedPostgres(temporaryFolder());
  const pid = postgres.pid();
  process.kill(pid, "SIGKILL");
  await until(() => postgres.pid() !== pid, { withinMs: 30_000 });
  expect(await query(postgres.connection, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
});

test("Ctrl-C on the server's process group does not reach PostgreSQL: the server stops it when it is done", async () => {
  const server = await startPostgresServer(temporaryFolder());
  const stat = readFileSync(`/proc/${server.postgres.pid}/stat`, "utf8").split(") ").at(-1)?.split(" ") ?? [];
  const [, , group, session] = stat.map(Number);
  expect([group, session]).toEqual([server.postgres.pid, server.postgres.pid]);
  server.killGroup("SIGTERM");
  await server.ended;
  expect(server.stdout()).toContain('"kind":"stopped"');
});

test("a creation that was killed half-way leaves nothing that counts; the next start creates the database", async () => {
  const dataDir = temporaryFolder();
  const unfinished = () => readdirSync(dataDir).filter((name) => name.startsWith("data.new-"));
  const server = startPostgresServer(dataDir);
  void server.catch(() => {}); // It never becomes ready.
  await until(() => unfinished().length > 0, { what: "initdb is under way" });
  const [pid] = [...childrenOf(process.pid)].find(([, command]) => command.includes(dataDir)) ?? [];
  if (pid === undefined) throw new Error("the server has ended by itself"); // to 0 a signal goes to the whole test run
  process.kill(pid, "SIGKILL");
  await expect(server).rejects.toThrow(/ended/);
  expect(existsSync(join(dataDir, "data"))).toBe(false);

  const next = await startEmbeddedPostgres(dataDir);
  expect(next.created).toBe(true);
  await next.stop();
  await startEmbeddedPostgres(dataDir);
  expect(unfinished()).toEqual([]);
});

test("a data directory with a long path works, and its socket's folder is gone after the stop", async () => {
  const deep = join(temporaryFolder(), "long-".repeat(15), "folder-".repeat(15));
  mkdirSync(deep, { recursive: true });
  const postgres = await startEmbeddedPostgres(deep);
  expect(postgres.connection.host.length).toBeLessThan(90);
  expect(await query(postgres.connection, "SELECT 1 AS one")).toEqual([{ one: 1 }]);
  await postgres.stop();
  expect(existsSync(postgres.connection.host)).toBe(false);
});
