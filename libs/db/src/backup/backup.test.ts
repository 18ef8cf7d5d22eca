/** Backups of a real database into a real folder, and back into another. */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { expect, test } from "@jest/globals";
import { type TestDatabase, temporaryFolder, testDatabase, until } from "@bowline/testing";
import { sql } from "kysely";
import { latestMigration, migrate, pendingMigrations } from "../migrate.ts";
import { dump } from "./dump.ts";
import { load } from "./load.ts";
import { BackupError, type Manifest, readManifest } from "./manifest.ts";
import { verifyBackup } from "./verify.ts";

const keyId = "0123456789abcdef";

function backUp(from: TestDatabase, folder: string, more: { encryptionKey?: string } = {}): Promise<Manifest> {
  return dump({
    address: from.address,
    folder,
    serverVersion: "0.1.0",
    encryptionKeyId: keyId,
    report: () => {},
    ...more,
  });
}

function putBack(into: TestDatabase, folder: string, manifest: Manifest, replace = false): Promise<string> {
  return load({
    ...{ address: into.address, folder, manifest, replace, report: () => {} },
    keep: async (tx) => (await tx.selectFrom("organisations").select("id").execute()).map(({ id }) => id),
    finish: async (_, kept) => (kept ?? []).join(" "),
  });
}

async function reasonOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (why: unknown) => why,
  );
  return error instanceof BackupError ? error.reason : `no refusal but ${String(error)}`;
}

/** What a server of the first schema writes too, with characters that COPY escapes. */
const writes = [
  `INSERT INTO installation (id) VALUES ('inst_1')`,
  `INSERT INTO organisations (id, name, display_name) VALUES ('org_1', 'one', E'tab\\t line\\n back\\\\slash "ü" 🎈')`,
  `INSERT INTO clusters (id, name, runtime, labels) VALUES ('cluster_1', 'one', 'local', '{"a": "\\\\N", "b": null}')`,
  `INSERT INTO agents (id, cluster_id, name, runtime, runtime_identity, signing_key, signing_thumbprint, sealing_key)
    VALUES ('agent_1', 'cluster_1', 'one', 'local', 'machine', '{}', 'one', '{}')`,
  `INSERT INTO sessions (agent_id, id, epoch, replica_id, state) VALUES ('agent_1', 's', 7, 'r', 'ENDED')`,
];

async function filled(options: { schema?: string } = {}): Promise<TestDatabase> {
  const database = await testDatabase({ migrated: options.schema === undefined });
  if (options.schema !== undefined) await migrate(database.db, options.schema);
  for (const statement of writes) await sql.raw(statement).execute(database.db);
  return database;
}

/** Every row of every table, and where each sequence is. */
async function contentOf({ db }: TestDatabase): Promise<Record<string, unknown>> {
  const content: Record<string, unknown> = {};
  const { rows: tables } = await sql<{ name: string }>`SELECT table_name AS name FROM information_schema.tables
    WHERE table_schema = 'public' AND table_name NOT LIKE 'kysely_%' ORDER BY 1`.execute(db);
  for (const { name } of tables)
    content[name] = (await sql`SELECT t::text FROM ${sql.id(name)} AS t ORDER BY 1`.execute(db)).rows;
  content["sequences"] = (await sql`SELECT sequencename, last_value FROM pg_sequences ORDER BY 1`.execute(db)).rows;
  return content;
}

const isEmpty = async ({ db }: TestDatabase) =>
  (await sql`SELECT 1 FROM pg_class WHERE relnamespace = 'public'::regnamespace`.execute(db)).rows.length === 0;

test("a database that was put back has every row, every number that was drawn, and the schema", async () => {
  const source = await filled();
  const folder = join(temporaryFolder(), "new", "backup");
  const manifest = await backUp(source, folder);
  expect(manifest).toMatchObject({ schema: latestMigration, installationId: "inst_1", encryptionKeyId: keyId });
  expect(await verifyBackup(folder)).toEqual(manifest);
  const target = await testDatabase({ migrated: false });
  await putBack(target, folder, manifest);
  expect(await contentOf(target)).toEqual(await contentOf(source));
  expect(await pendingMigrations(target.db)).toEqual([]);
});

test("files are private, and the key is there only where it was asked for", async () => {
  const source = await filled();
  const folder = temporaryFolder();
  const without = await backUp(source, join(folder, "without"));
  const withKey = await backUp(source, join(folder, "with"), { encryptionKey: "secret" });
  expect([without.encryptionKeyIncluded, withKey.encryptionKeyIncluded]).toEqual([false, true]);
  expect(existsSync(join(folder, "without", "encryption-key"))).toBe(false);
  expect(readFileSync(join(folder, "with", "encryption-key"), "utf8")).toBe("secret");
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    const mode = statSync(join(entry.parentPath, entry.name)).mode & 0o777;
    expect([entry.name, mode]).toEqual([entry.name, entry.isDirectory() ? 0o700 : 0o600]);
  }
});

test("a backup is one moment: what is committed while it is written is not in it", async () => {
  const source = await filled();
  const folder = join(temporaryFolder(), "backup");
  let backup: Promise<Manifest> | undefined;
  await source.db.transaction().execute(async (tx) => {
    await sql`LOCK TABLE clusters IN ACCESS EXCLUSIVE MODE`.execute(tx);
    backup = backUp(source, folder);
    backup.catch(() => undefined); // awaited below
    // Of this database alone: others share the server, and wait for locks of their own.
    const waiting = sql`SELECT 1 FROM pg_stat_activity
      WHERE datname = current_database() AND wait_event_type = 'Lock'`;
    await until(async () => (await waiting.execute(source.db)).rows.length > 0, { what: "the backup waits" });
    await tx.insertInto("organisations").values({ id: "org_2", name: "two" }).execute();
  });
  const manifest = await backup;
  expect(manifest?.tables.find(({ name }) => name === "organisations")?.rows).toBe(1);
});

test("a backup of an older schema is migrated forward with its rows", async () => {
  const older = await filled({ schema: "0001-spine" });
  const folder = join(temporaryFolder(), "backup");
  const manifest = await backUp(older, folder);
  expect(manifest.schema).toBe("0001-spine");
  const target = await testDatabase({ migrated: false });
  await putBack(target, folder, manifest);
  expect(await pendingMigrations(target.db)).toEqual([]);
  expect(await target.db.selectFrom("agents").select(["id", "state", "conflict"]).execute()).toEqual([
    { id: "agent_1", state: "ENROLLED", conflict: "" },
  ]);
});

test("a newer schema or format is refused, with the version that reads it", async () => {
  const source = await filled();
  const folder = join(temporaryFolder(), "backup");
  const manifest = await backUp(source, folder);
  const rewrite = (change: object) =>
    writeFileSync(join(folder, "manifest.json"), JSON.stringify({ ...manifest, serverVersion: "7.1", ...change }));
  for (const change of [{ schema: "9999-later" }, { format: 2 }]) {
    rewrite(change);
    await expect(readManifest(folder)).rejects.toMatchObject({
      reason: "BACKUP_NEWER",
      message: expect.stringMatching(/7\.1|that version/),
    });
  }
  await sql`INSERT INTO kysely_migration (name, timestamp) VALUES ('9999-later', '')`.execute(source.db);
  expect(await reasonOf(backUp(source, join(temporaryFolder(), "backup")))).toBe("DATABASE_NEWER");
});

test("a file that is missing, cut, changed or of another table, and a manifest that is cut or points elsewhere, are refused", async () => {
  const source = await filled();
  const damaged = async (damage: (folder: string, manifest: Manifest) => void) => {
    const folder = join(temporaryFolder(), "backup");
    damage(folder, await backUp(source, folder));
    return reasonOf(verifyBackup(folder));
  };
  const file = (folder: string, name: string) => join(folder, "tables", `${name}.gz`);
  expect(await damaged((folder) => writeFileSync(file(folder, "agents"), ""))).toBe("BACKUP_DAMAGED");
  expect(await damaged((folder) => truncateSync(file(folder, "agents"), 25))).toBe("BACKUP_DAMAGED");
  expect(await damaged((folder) => copyFileSync(file(folder, "clusters"), file(folder, "agents")))).toBe(
    "BACKUP_DAMAGED",
  );
  expect(await damaged((folder) => truncateSync(join(folder, "manifest.json"), 200))).toBe("BACKUP_UNREADABLE");
  const changed = (change: (manifest: Manifest) => object) =>
    damaged((folder, manifest) =>
      writeFileSync(join(folder, "manifest.json"), JSON.stringify({ ...manifest, ...change(manifest) })),
    );
  expect(await changed((one) => ({ tables: one.tables.map((table) => ({ ...table, file: "/etc/passwd" })) }))).toBe(
    "BACKUP_UNREADABLE",
  );
  const partition = { parent: "events", name: "events_1", bound: "DEFAULT; DROP TABLE agents" };
  expect(await changed(() => ({ partitions: [partition] }))).toBe("BACKUP_UNREADABLE");
  expect(await changed(() => ({ sequences: undefined }))).toBe("BACKUP_UNREADABLE");
  expect(await reasonOf(verifyBackup(temporaryFolder()))).toBe("BACKUP_UNREADABLE");
});

test("a folder that holds something is refused, an empty one is used, and a backup that fails leaves nothing", async () => {
  const source = await filled();
  const folder = temporaryFolder();
  mkdirSync(join(folder, "empty"));
  await backUp(source, join(folder, "empty"));
  expect(await reasonOf(backUp(source, join(folder, "empty")))).toBe("BACKUP_FOLDER_IN_USE");
  writeFileSync(join(folder, "file"), "");
  expect(await reasonOf(backUp(source, join(folder, "file")))).toBe("BACKUP_FOLDER_IN_USE");
  const nothing = await testDatabase({ migrated: false });
  expect(await reasonOf(backUp(nothing, join(folder, "none")))).toBe("DATABASE_EMPTY");
  await migrate(nothing.db);
  expect(await reasonOf(backUp(nothing, join(folder, "none")))).toBe("DATABASE_EMPTY");
  expect(readdirSync(folder).toSorted()).toEqual(["empty", "file"]);
});

test("while it is written a backup has another name and no manifest", async () => {
  const source = await filled();
  const folder = join(temporaryFolder(), "backup");
  let seen: string[] = [];
  await dump({
    ...{ address: source.address, folder, serverVersion: "0.1.0", encryptionKeyId: keyId },
    report: () => (seen = readdirSync(dirname(folder))),
  });
  expect(seen).toEqual([`${basename(folder)}.unfinished-${process.pid}`]);
  expect(readdirSync(dirname(folder))).toEqual([basename(folder)]);
});

test("a database that holds something, or on which a server runs, is not touched; with replace the backup takes its place", async () => {
  const source = await filled();
  const folder = join(temporaryFolder(), "backup");
  const manifest = await backUp(source, folder);
  const target = await filled();
  await target.db.insertInto("organisations").values({ id: "org_2", name: "two" }).execute();
  await target.db
    .insertInto("replicas")
    .values({ id: "r", server_version: "0.1.0", lease_until: new Date(Date.now() + 3_600_000) })
    .execute();
  const before = await contentOf(target);
  expect(await reasonOf(putBack(target, folder, manifest, true))).toBe("SERVER_RUNNING");
  await target.db
    .updateTable("replicas")
    .set({ lease_until: new Date(0) })
    .execute();
  expect(await reasonOf(putBack(target, folder, manifest))).toBe("DATABASE_NOT_EMPTY");
  expect(await contentOf(target)).toMatchObject({ organisations: before["organisations"] });
  expect(await putBack(target, folder, manifest, true)).toBe("org_1 org_2"); // what `keep` read
  expect(await contentOf(target)).toEqual(await contentOf(source));
});

test("a restore that fails in the middle leaves the database as it was", async () => {
  const source = await filled();
  const folder = join(temporaryFolder(), "backup");
  const manifest = await backUp(source, folder);
  const wrong = { ...manifest, tables: manifest.tables.map((table) => ({ ...table, rows: table.rows + 1 })) };
  const unknown = { ...manifest, tables: manifest.tables.map((table) => ({ ...table, columns: ["other"] })) };
  const empty = await testDatabase({ migrated: false });
  expect(await reasonOf(putBack(empty, folder, wrong))).toBe("BACKUP_DAMAGED");
  expect(await reasonOf(putBack(empty, folder, unknown))).toBe("BACKUP_DOES_NOT_FIT");
  expect(await isEmpty(empty)).toBe(true);
  const used = await filled();
  const before = await contentOf(used);
  expect(await reasonOf(putBack(used, folder, wrong, true))).toBe("BACKUP_DAMAGED");
  expect(await contentOf(used)).toEqual(before);
});
