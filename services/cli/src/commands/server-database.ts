/**
 * Commands on the server's database, here, by whoever owns the machine: they
 * need no token, and no server that runs.
 */
import { resolve } from "node:path";
import { Option } from "commander";
import type { Command } from "commander";
import { verb } from "../cli.ts";
import type { Cli } from "../cli.ts";
import { become, forwarded, programs } from "../programs.ts";

export function historyCommands(cli: Cli, server: Command): void {
  const backup = printed(
    databaseSettings(
      verb(server, {
        usage: "backup <folder>",
        summary: "Write a backup of the database into a new folder, while the server runs or not",
        examples: [
          "server backup /srv/backups/monday",
          "server backup /srv/backups/monday --data-dir /srv/bowline --output json",
        ],
        more:
          "One moment of the database: embedded (found by --data-dir) or separate (--database-url). Files have mode 0600.\n" +
          "The folder gets its name when the backup is whole; one that was cut off is called <folder>.unfinished-*.\n" +
          "The key that secrets are encrypted with is not in it: keep a copy of <data-dir>/encryption-key elsewhere.",
      }),
    ).option("--include-encryption-key", "put the key beside it: whoever has the folder can read its secrets"),
  );
  backup.action(() => run(cli, backup));

  const verify = printed(
    verb(server, {
      usage: "verify-backup <folder>",
      summary: "Read a backup to its end and compare every checksum; needs no database",
      examples: ["server verify-backup /srv/backups/monday"],
    }),
  );
  verify.action(() => run(cli, verify));

  const restore = printed(
    databaseSettings(
      verb(server, {
        usage: "restore <folder>",
        summary: "Put a backup into an empty database; the server must not run",
        examples: [
          "server restore /srv/backups/monday --data-dir /srv/bowline-new",
          "server restore /srv/backups/monday --replace --yes",
        ],
        more:
          "Checksums first, then everything in one transaction: what fails leaves the database as it was. An older backup is\n" +
          "migrated to this version. Afterwards nothing is sent to agents until `bowline server confirm-restore`.\n" +
          "With --replace over this installation's own database, who was revoked, deleted or rekeyed since stays so.",
      }),
    )
      .option("--replace", "drop what the database holds; asks on a terminal")
      .option("-y, --yes", "do not ask")
      .option("--accept-lost-secrets", "go on without the key that the backup's secrets were encrypted with"),
  );
  restore.action(() => run(cli, restore));

  const restored = printed(
    databaseSettings(
      verb(server, {
        usage: "restored",
        summary: "Say that the database was put back by other means: a snapshot, a point in time, a late standby",
        examples: ["server restored --data-dir /srv/bowline"],
        more:
          "Begins another incarnation: new signing keys, no open sessions, no unspent registration tokens, and nothing is\n" +
          "sent to agents until `bowline server confirm-restore`. `bowline server restore` does it by itself.",
      }),
    ),
  );
  restored.action(() => run(cli, restored));
}

function printed(command: Command): Command {
  return command.addOption(
    new Option("-o, --output <format>", "what is printed to standard output (default: table)").choices([
      "table",
      "json",
    ]),
  );
}

/** Becomes the server's program with the flags that were typed. */
export async function run(cli: Cli, command: Command): Promise<void> {
  const paths = ["data-dir", "config", "encryption-key-file", "tls-cert", "tls-key", "tls-client-ca"];
  // Folders are named from where one is. What we don't know is passed on: the server says what it takes.
  const words = command.registeredArguments.length;
  const args = command.args.map((arg, index) => (index < words ? resolve(cli.settings.folder, arg) : arg));
  await become(cli, programs.server, [command.name(), ...forwarded(cli, command, { paths }), ...args]);
}

/** Which database, and which key. */
export function databaseSettings(command: Command): Command {
  return command
    .option("--config <file>", "settings as YAML (env: BOWLINE_CONFIG; default: none)")
    .option("--data-dir <folder>", "database, keys, admin token (env: BOWLINE_DATA_DIR; default: .bowline)")
    .option(
      "--database-url <url>",
      "PostgreSQL instead of its own; shows a password to `ps` (env: BOWLINE_DATABASE_URL)",
    )
    .option(
      "--encryption-key-file <file>",
      "key for secrets at rest (env: BOWLINE_ENCRYPTION_KEY_FILE; default: in the data folder)",
    )
    .addOption(
      new Option("--log-format <format>", "(env: BOWLINE_LOG_FORMAT; default: pretty on a terminal)").choices([
        "json",
        "pretty",
      ]),
    )
    .option("--log-level <level>", "(env: BOWLINE_LOG_LEVEL; default: info)");
}
