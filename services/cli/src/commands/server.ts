/** `bowline server`: starts the control plane here; prints its settings; looks after its database. */
import type { Command } from "commander";
import { InstallationSchema } from "@bowline/contract/installation";
import { connected, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { hint, printDone } from "../output.ts";
import { databaseSettings, historyCommands, run } from "./server-database.ts";

export function serverCommand(cli: Cli): Command {
  const server = noun("server", "The control plane: start it, look at its settings, migrate its database");

  const start = settings(
    verb(server, {
      usage: "start",
      summary: "Start the control plane here, in the foreground",
      examples: [
        "server start",
        "server start --host 0.0.0.0 --tls-cert tls.crt --tls-key tls.key",
        "server start --port 9090 --data-dir /srv/bowline --public-url https://bowline.example.com",
      ],
      more:
        "Without --database-url it brings its own PostgreSQL, in the data folder. The first start writes the admin token to\n" +
        "<data-dir>/admin-token. Flags win over variables, variables over bowline.yaml (--config), that over the defaults.\n" +
        "`bowline server config` lists every setting; flags that are not listed here are passed on.",
    }),
  ).option("--lifeline-stdin", "exit when standard input closes");
  start.action(() => run(cli, start));

  const config = settings(
    verb(server, {
      usage: "config",
      summary: "Print the settings in force and where each came from; secrets are hidden",
      examples: ["server config", "server config --config bowline.yaml"],
    }),
  );
  config.action(() => run(cli, config));

  const migrate = settings(
    verb(server, {
      usage: "migrate",
      summary: "Bring the database to this version, and exit",
      examples: ["server migrate", "server migrate --dry-run"],
    }),
  ).option("--dry-run", "say what would be done, and change nothing");
  migrate.action(() => run(cli, migrate));
  historyCommands(cli, server);
  confirmRestoreCommand(cli, server);
  return server;
}

function confirmRestoreCommand(cli: Cli, server: Command): void {
  connected(
    verb(server, {
      usage: "confirm-restore",
      summary: "Let commands go out again after the database was restored",
      examples: ["server confirm-restore --yes"],
      more:
        "After a restore nothing is sent to agents until then. Before: revoke again who was revoked or deleted after the\n" +
        "backup, and rekey who was rekeyed since; `server restore --replace` over this installation did that by itself.",
    }).option("-y, --yes", "do not ask"),
  ).action(async (flags: ConnectionFlags & { yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.installation.getInstallation({});
    if (found.dispatchHeld)
      await confirm(
        cli,
        flags,
        "send agents again what the restored database wants; what was revoked, deleted or rekeyed since and not carried over is valid again",
      );
    const installation = await api.installation.confirmRestore({});
    printDone(cli, flags, {
      schema: InstallationSchema,
      message: installation,
      id: installation.id,
      text: found.dispatchHeld ? "Dispatch goes on." : "Dispatch was not held.",
    });
    const waiting = installation.agentsAwaitingDecision;
    if (waiting > 0) hint(cli, flags, `${waiting} agents have another history and await a decision:`, "agent list");
  });
}

function settings(command: Command): Command {
  return databaseSettings(command)
    .allowUnknownOption()
    .allowExcessArguments()
    .option("--host <address>", "address that it listens on (env: BOWLINE_HOST; default: 127.0.0.1)")
    .option("--port <port>", "port; 0 is any free one (env: BOWLINE_PORT; default: 8080)")
    .option(
      "--public-url <url>",
      "URL at which agents and people reach it (env: BOWLINE_PUBLIC_URL; default: where it listens)",
    )
    .option("--tls-cert <file>", "certificate chain, PEM; read again when it changes (env: BOWLINE_TLS_CERT)")
    .option("--tls-key <file>", "its key, PEM (env: BOWLINE_TLS_KEY)")
    .option("--tls-client-ca <file>", "CA of agents' client certificates (env: BOWLINE_TLS_CLIENT_CA)")
    .option("--trusted-proxies <networks>", "whose X-Forwarded-For is believed (env: BOWLINE_TRUSTED_PROXIES)")
    .option("--cors-origins <origins>", "origins whose pages may call it (env: BOWLINE_CORS_ORIGINS; default: none)")
    .option("--max-connections <n>", "connections to PostgreSQL (env: BOWLINE_MAX_CONNECTIONS; default: 20)")
    .option("--insecure", "clear text beyond this host (env: BOWLINE_INSECURE)");
}
