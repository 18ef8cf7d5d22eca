/**
 * `bowline server backup`, `verify-backup`, `restore`: with the embedded
 * database and a separate one, while a server runs and while none does. What
 * agents make of a restore is in tests/faults/restore.test.ts.
 */
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "@jest/globals";
import { Agent_State, AgentsService } from "@bowline/contract/agents";
import { RegistrationTokenService } from "@bowline/contract/clusters";
import { ServiceAccountService } from "@bowline/contract/identity";
import { Role } from "@bowline/contract/options";
import {
  enrolScriptedAgent,
  runProcess,
  startProcess,
  startServer as startOnDatabase,
  temporaryFolder,
  testDatabase,
  until,
} from "@bowline/testing";
import { sql } from "kysely";
import { refusal } from "../e2e/api.ts";
import { programs, startServer } from "../e2e/fixture.ts";

interface Answer {
  code: number | null;
  reason: string;
  stderr: string;
  json: Record<string, unknown>;
}

/** `bowline server …` with JSON on standard output, without the CLI in between, which only passes it on. */
const bowline = (words: readonly string[], databaseUrl?: string): Promise<Answer> =>
  run([programs.server, ...words], databaseUrl);

async function run(program: readonly string[], databaseUrl?: string): Promise<Answer> {
  const command = [process.execPath, ...program, "--output", "json"];
  const { code, stdout, stderr } = await runProcess({ command, env: { BOWLINE_DATABASE_URL: databaseUrl } });
  const reason = /^bowline server: (\w+):/m.exec(stderr)?.[1] ?? "";
  return { code, reason, stderr, json: stdout === "" ? {} : (JSON.parse(stdout) as Record<string, unknown>) };
}

test("the embedded database is backed up while its server runs and while it does not, and is restored into a new folder", async () => {
  const server = await startServer();
  await server.api.clusters.createCluster({ cluster: { name: "kept", runtime: "local" } });
  const { id: installationId } = await server.api.installation.getInstallation({});
  const backups = temporaryFolder();
  const [hot, cold] = [join(backups, "hot"), join(backups, "cold")];
  const from = ["--data-dir", server.dataDir];
  const taken = await bowline(["backup", hot, ...from]);
  expect(taken).toMatchObject({ code: 0, json: { folder: hot, installationId, encryptionKeyIncluded: false } });
  expect(taken.stderr).toContain("THE ENCRYPTION KEY IS NOT IN THIS BACKUP");
  expect(taken.stderr).toMatch(/\d+\/\d+ clusters: 1 rows/);
  expect(await bowline(["backup", hot, ...from])).toMatchObject({ code: 1, reason: "BACKUP_FOLDER_IN_USE" });
  expect(await bowline(["restore", hot, ...from, "--replace", "--yes"])).toMatchObject({ reason: "SERVER_RUNNING" });
  server.process.kill("SIGTERM");
  await server.process.ended;
  const cli = [programs.cli, "server", "backup", cold, ...from, "--include-encryption-key"];
  expect(await run(cli)).toMatchObject({ code: 0, json: { folder: cold, encryptionKeyIncluded: true } });
  expect(await bowline(["verify-backup", cold])).toMatchObject({ code: 0, json: { installationId } });

  const dataDir = join(temporaryFolder(), "new");
  const into = ["--data-dir", dataDir];
  const refused = await bowline(["restore", hot, ...into]);
  expect(refused).toMatchObject({ code: 1, reason: "ENCRYPTION_KEY_OTHER" });
  expect(refused.stderr).toContain(String(taken.json["encryptionKeyId"]));
  const done = await bowline(["restore", cold, ...into]); // it has the key
  expect(done).toMatchObject({ code: 0, json: { installationId, carriedOver: false, revokedAgain: 0 } });
  expect(done.stderr).toContain("whoever was rekeyed since");
  expect(readFileSync(join(dataDir, "encryption-key"), "utf8")).toBe(
    readFileSync(join(server.dataDir, "encryption-key"), "utf8"),
  );
  expect(await bowline(["restore", cold, ...into])).toMatchObject({ code: 1, reason: "DATABASE_NOT_EMPTY" });

  const again = await startServer({ dataDir });
  expect(again.adminToken).not.toBe(server.adminToken); // the machine's owner gets in
  expect((await again.api.clusters.listClusters({})).clusters.map(({ name }) => name)).toEqual(["kept"]);
  const installation = await again.api.installation.getInstallation({});
  expect(installation).toMatchObject({ id: installationId, dispatchHeld: true, incarnation: done.json["incarnation"] });
  expect(await again.api.installation.confirmRestore({})).toMatchObject({ dispatchHeld: false });
});

test("a separate database is restored in place: the admin's token stays, who was revoked or deleted since stays out, and newer keys stay", async () => {
  const database = await testDatabase();
  const server = await startOnDatabase({ database });
  const agent = await server.scriptedAgent({ cluster: "one" });
  const deleted = await server.scriptedAgent({ cluster: "one" });
  const stolen = await server.scriptedAgent({ cluster: "one" });
  const accounts = server.client(ServiceAccountService);
  const account = await accounts.createServiceAccount({ name: "ci", role: Role.VIEWER });
  const folder = join(temporaryFolder(), "backup");
  const settings = ["--data-dir", server.dataDir];
  expect(await bowline(["backup", folder, ...settings], database.url)).toMatchObject({ code: 0 });
  for (const { agentId: id } of [agent, deleted]) await server.client(AgentsService).revokeAgent({ id });
  await server.client(AgentsService).deleteAgent({ id: deleted.agentId });
  await accounts.revokeServiceAccount({ id: account.id });
  const { token } = await server
    .client(RegistrationTokenService)
    .createRegistrationToken({ rekeyAgentId: stolen.agentId });
  const replacement = await enrolScriptedAgent({ url: server.url, token });
  expect(replacement.agentId).toBe(stolen.agentId);
  const replace = ["restore", folder, ...settings, "--replace", "--yes"];
  expect(await bowline(replace, database.url)).toMatchObject({ code: 1, reason: "SERVER_RUNNING" });
  await server.stop();
  expect(await bowline(["restore", folder, ...settings], database.url)).toMatchObject({ reason: "DATABASE_NOT_EMPTY" });
  expect(await bowline(["restore", folder, ...settings, "--replace"], database.url)).toMatchObject({
    code: 2,
    reason: "INVALID_SETTING",
  });
  const done = await bowline(replace, database.url);
  expect(done).toMatchObject({ code: 0, json: { carriedOver: true, revokedAgain: 3, carriedKeys: 1 } });
  expect(done.stderr).not.toContain("is valid again");
  expect(existsSync(join(server.dataDir, "admin-token.before-restore"))).toBe(false);
  const again = await server.again();
  expect(again.adminToken).toBe(server.adminToken);
  for (const { agentId: id } of [agent, deleted])
    expect(await again.client(AgentsService).getAgent({ id })).toMatchObject({ state: Agent_State.REVOKED });
  expect((await refusal(deleted.connect())).reason).toBe("AGENT_REVOKED");
  expect((await refusal(stolen.connect())).reason).toBe("AGENT_KEY_REPLACED");
  await replacement.connect();
  expect(await again.client(AgentsService).getAgent({ id: stolen.agentId })).toMatchObject({
    state: Agent_State.ENROLLED,
  });
});

test("without a database or a backup each command says what is missing", async () => {
  const empty = temporaryFolder();
  const folder = join(empty, "backup");
  writeFileSync(join(empty, "encryption-key"), `${Buffer.alloc(32, 7).toString("base64")}\n`, { mode: 0o600 });
  expect(await bowline(["backup", folder, "--data-dir", empty])).toMatchObject({ code: 1, reason: "DATABASE_EMPTY" });
  expect(await bowline(["restored", "--data-dir", empty])).toMatchObject({ code: 1, reason: "DATABASE_EMPTY" });
  const restored = await bowline(["restore", folder, "--data-dir", empty]);
  expect(restored).toMatchObject({ code: 1, reason: "BACKUP_UNREADABLE" });
});

test("a backup that is killed is no backup, and a restore that is killed has changed nothing", async () => {
  const database = await testDatabase();
  await database.db.insertInto("installation").values({ id: "inst_1" }).execute();
  const dataDir = temporaryFolder();
  writeFileSync(join(dataDir, "encryption-key"), `${Buffer.alloc(32, 7).toString("base64")}\n`, { mode: 0o600 });
  const backups = temporaryFolder();
  const folder = join(backups, "backup");
  /** Kills the command in the middle: where it waits for a table that the test holds. */
  const killed = async (words: readonly string[], lock: string): Promise<void> => {
    await database.db.transaction().execute(async (tx) => {
      await sql.raw(`LOCK TABLE organisations IN ${lock} MODE`).execute(tx);
      const command = [process.execPath, programs.server, ...words, "--data-dir", dataDir];
      const running = startProcess({ command, env: { BOWLINE_DATABASE_URL: database.url } });
      await until(
        async () => (await sql`SELECT 1 FROM pg_locks WHERE NOT granted`.execute(database.db)).rows.length > 0,
        { withinMs: 60_000, what: "the command waits" },
      );
      running.kill("SIGKILL");
      await running.ended;
    });
  };
  await killed(["backup", folder], "ACCESS EXCLUSIVE");
  const [left = ""] = readdirSync(backups);
  expect(left).toMatch(/^backup\.unfinished-\d+$/);
  expect(await bowline(["verify-backup", join(backups, left)])).toMatchObject({ reason: "BACKUP_UNREADABLE" });
  expect(await bowline(["backup", folder, "--data-dir", dataDir], database.url)).toMatchObject({ code: 0 });

  await database.db.insertInto("organisations").values({ id: "org_1", name: "since" }).execute();
  await killed(["restore", folder, "--replace", "--yes"], "ACCESS SHARE");
  // Its connection notices when it is served again, and its transaction goes with it.
  await until(
    async () =>
      (
        await sql`SELECT 1 FROM pg_stat_activity WHERE application_name = 'bowline restore'
    AND datname = current_database()`.execute(database.db)
      ).rows.length === 0,
  );
  expect(await database.db.selectFrom("organisations").select("id").execute()).toEqual([{ id: "org_1" }]);
  expect(await database.db.selectFrom("installation").select("incarnation").execute()).toEqual([{ incarnation: 1 }]);
});
