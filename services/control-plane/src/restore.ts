/** `bowline server restore` and `restored`: another history of the database begins, by whoever owns the machine. */
import { existsSync } from "node:fs";
import { readFile, rename } from "node:fs/promises";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline/promises";
import { loadOrCreateKeyFile, makePrivateFolder, matches, parseToken, writePrivateFile } from "@bowline/auth";
import {
  BackupError,
  type DatabaseAddress,
  encryptionKeyFile,
  load,
  type Manifest,
  migrate,
  verifyBackup,
} from "@bowline/db";
import type { Logger } from "pino";
import { type Config, ConfigError, loadConfig } from "./config.ts";
import { resetAdminTokenIn } from "./identity/index.ts";
import {
  carryKeys,
  markRestored,
  markRestoredIn,
  readSince,
  type Restored,
  revokeAgain,
  type Since,
} from "./installation/index.ts";
import { keyFileOf, onDatabase, placeOf, printJson, quietLog, tell, tellProgress, withDatabase } from "./machine.ts";
import { createEvents, type Events } from "./platform/events.ts";
import type { Work } from "./platform/transactions.ts";

/** What a restore did, as `--output json` prints it. */
interface Report extends Restored {
  installationId: string;
  /** The database that was replaced was this installation's: what follows was read there. */
  carriedOver: boolean;
  /** Revoked, retired or deleted in the database that was replaced, not in the backup, and revoked here again. */
  revokedAgain: number;
  /** Agents with newer keys in the database that was replaced, which have these here too. */
  carriedKeys: number;
}

const nothingCarried = { carriedOver: false, revokedAgain: 0, carriedKeys: 0 };

export async function restore(args: readonly string[]): Promise<number> {
  const { config, words, switches, json } = loadConfig(args, undefined, {
    ...{ words: 1, switches: ["replace", "yes", "accept-lost-secrets"], output: true },
  });
  const [given] = words;
  if (given === undefined) throw new ConfigError("say what: bowline server restore DIR");
  const folder = resolve(given);
  const manifest = await verifyBackup(folder);
  tell(`The backup of ${manifest.takenAt} is whole: ${manifest.tables.length} tables, schema ${manifest.schema}.`);
  const replace = switches.has("replace");
  if (replace && !switches.has("yes") && !(await agrees(`Drop everything in ${placeOf(config)}?`))) return 1;
  await placeKey(config, folder, manifest, switches.has("accept-lost-secrets"));
  const log = await quietLog(config);
  const report = await onDatabase(config, log, { alone: true }, (address) =>
    loadAndMark(config, { address, folder, manifest, replace, log }),
  );
  tellRestored(report, json);
  return 0;
}

/** One transaction: rows, migrations, the new incarnation, an admin who gets in. */
function loadAndMark(
  config: Config,
  how: { address: DatabaseAddress; folder: string; manifest: Manifest; replace: boolean; log: Logger },
): Promise<Report> {
  const { log, manifest, ...more } = how;
  return load({
    ...{ ...more, manifest, report: tellProgress, migrated: (name) => tell(`migrated: ${name}`) },
    keep: (tx) => readSince(tx, manifest.installationId),
    finish: async (tx, since) => {
      const events = createEvents(tx, log);
      const last: (() => Promise<void>)[] = [];
      const work: Work = { tx, last: (write) => void last.push(write), after: () => undefined };
      const done = await markRestoredIn(work, events);
      const carried = since === undefined ? nothingCarried : await carryOver(work, events, since, manifest);
      await keepAdmin(config, work, events);
      for (const write of last) await write();
      return { ...done, installationId: manifest.installationId, ...carried };
    },
  });
}

async function carryOver(work: Work, events: Events, since: Since, manifest: Manifest) {
  const position = manifest.sequences.find(({ name }) => name === "event_position")?.value ?? 0;
  const backup = { incarnation: manifest.incarnation, position };
  const revokedAgain = await revokeAgain(work, events, since, backup);
  return { carriedOver: true, revokedAgain, carriedKeys: await carryKeys(work, events, since, backup) };
}

/** For people who restored by their own means: a snapshot, a point in time, a standby that had not got everything. */
export async function restored(args: readonly string[]): Promise<number> {
  const { config, json } = loadConfig(args, undefined, { output: true });
  const log = await quietLog(config);
  const report = await onDatabase(config, log, { alone: false }, (address) =>
    withDatabase(address, async ({ db }) => {
      await migrate(db);
      const done = await markRestored(db, createEvents(db, log));
      const { id } = await db.selectFrom("installation").select("id").executeTakeFirstOrThrow();
      return { ...done, installationId: id, ...nothingCarried };
    }),
  );
  tellRestored(report, json);
  return 0;
}

function tellRestored(report: Report, json: boolean): void {
  const { incarnation, from, voidedTokens, endedSessions, carriedOver, revokedAgain, carriedKeys } = report;
  tell(
    `Incarnation ${incarnation} begins, after ${from}. Signing keys are new; ${voidedTokens} registration tokens are void; ${endedSessions} sessions ended.`,
  );
  if (revokedAgain > 0)
    tell(`${revokedAgain} that were revoked, retired or deleted since the backup stay out: revoked.`);
  if (carriedKeys > 0) tell(`${carriedKeys} agents that got other keys since the backup keep those.`);
  tell("DISPATCH IS HELD: nothing goes to agents until `bowline server confirm-restore`.");
  if (!carriedOver) {
    tell("Before: what ended after the backup was taken is valid again. Revoke again who was revoked or deleted since");
    tell(
      "(`bowline agent revoke`, `bowline service-account revoke`), and give other keys to whoever was rekeyed since",
    );
    tell("(`bowline token create --rekey AGENT`): the keys of before are theirs again, also where they were stolen.");
  }
  if (json) printJson(report);
  else process.stdout.write(`${incarnation}\n`);
}

/** Asks on a terminal. Throws elsewhere: nobody is there to answer. */
async function agrees(question: string): Promise<boolean> {
  if (!process.stdin.isTTY || !process.stderr.isTTY) {
    throw new ConfigError(`--replace is destructive (${question}); add --yes if that is meant`);
  }
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`${question} [y/N] `);
  terminal.close();
  return /^y(es)?$/i.test(answer.trim());
}

/** Puts the key in its place before anything is restored. Throws ENCRYPTION_KEY_OTHER. */
async function placeKey(config: Config, folder: string, manifest: Manifest, lost: boolean): Promise<void> {
  const keyFile = keyFileOf(config);
  await makePrivateFolder(config.dataDir);
  if (!existsSync(keyFile) && manifest.encryptionKeyIncluded) {
    await writePrivateFile(keyFile, await readFile(join(folder, encryptionKeyFile), "utf8"));
  }
  const here = existsSync(keyFile) ? (await loadOrCreateKeyFile(keyFile)).id : undefined;
  if (here === manifest.encryptionKeyId) return;
  const what =
    here === undefined
      ? `There is no encryption key at ${keyFile}.`
      : `The encryption key at ${keyFile} is another one.`;
  if (!lost) {
    throw new BackupError(
      "ENCRYPTION_KEY_OTHER",
      `${what} Put the one there with which this backup's secrets were encrypted (${manifest.encryptionKeyId}), or add --accept-lost-secrets to go on without them`,
    );
  }
  tell(`${what} Secrets of the backup cannot be read any more: set each again, then publish again what has one.`);
}

/** The token's file may be of another history, or of none. */
async function keepAdmin(config: Config, work: Work, events: Events): Promise<void> {
  const file = join(config.dataDir, "admin-token");
  const token = existsSync(file) ? parseToken((await readFile(file, "utf8")).trim()) : undefined;
  if (token !== undefined) {
    const known = await work.tx
      .selectFrom("service_accounts")
      .select("secret_hash")
      .where("id", "=", `sa_${token.id}`)
      .where("revoked_at", "is", null)
      .executeTakeFirst();
    if (known !== undefined && matches(known.secret_hash, token.secret)) return;
    await rename(file, `${file}.before-restore`);
  }
  await resetAdminTokenIn(work, { events, writeAdminToken: (text) => writePrivateFile(file, `${text}\n`) });
  tell(`A new admin token is in ${file}: the backup knows no such token as was there.`);
}
