/** `bowline secret`: values that go to agents and nowhere else. */
import { ListSecretsResponseSchema, SecretSchema } from "@bowline/contract/secrets";
import type { Command } from "commander";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { hint, printDone, printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { readSecret } from "../secrets.ts";
import { when } from "../text.ts";

type ValueFlags = ConnectionFlags & { secretFile: string };

export function secretCommand(cli: Cli): Command {
  const secret = noun("secret", "Secrets of backends and stacks; their values are never shown");

  connected(
    valued(
      verb(secret, {
        usage: "create <name>",
        summary: "Create a secret from a file or standard input",
        examples: [
          "secret create orders-key --secret-file orders.key",
          "vault read -field=key orders | bowline secret create orders-key --secret-file -",
        ],
        more: [
          "A backend names it: secretHeaders: [{name: Authorization, secret: orders-key}]. The value is the whole header.",
          "A Compose file names it: secrets: {orders-key: {external: true}}; it is the file /run/secrets/orders-key then.",
          "At most 64 KiB, text or bytes. The line break after a single line is not part of it; several lines, such as a",
          "certificate's, and bytes are taken as they are.",
        ].join("\n"),
      }),
    ),
  ).action(async (name: string, flags: ValueFlags) => {
    const api = await openApi(cli, flags);
    const made = await api.secrets.createSecret({ name, ...(await readSecret(cli, flags.secretFile)) });
    printDone(cli, flags, {
      schema: SecretSchema,
      message: made,
      id: made.id,
      text: `Secret ${made.name} is made.`,
    });
  });

  connected(
    valued(
      verb(secret, {
        usage: "set <secret>",
        summary: "Give a secret a new value",
        examples: ["secret set orders-key --secret-file orders.key"],
        more: "What is published or deployed keeps the value that it has, until it is published again, or applied or restarted.",
      }),
    ),
  ).action(async (id: string, flags: ValueFlags) => {
    const api = await openApi(cli, flags);
    const changed = await api.secrets.setSecretValue({ id, ...(await readSecret(cli, flags.secretFile)) });
    printDone(cli, flags, {
      schema: SecretSchema,
      message: changed,
      id: changed.id,
      text: `Secret ${changed.name} has its value number ${changed.version}.`,
    });
    hint(cli, flags, "To put it into force, publish again:", "publish create <product> --to <cluster> --wait");
    hint(cli, flags, "or restart the stack that has it:", "stack restart <stack>");
  });

  connected(
    listed(verb(secret, { usage: "list", summary: "List secrets, without their values", examples: ["secret list"] })),
  ).action(async (flags: ListFlags) => {
    const api = await openApi(cli, flags);
    const response = await allPages(
      flags.limit,
      (page) => api.secrets.listSecrets(page),
      (page) => page.secrets,
    );
    printList(cli, flags, {
      schema: ListSecretsResponseSchema,
      response,
      rows: response.secrets,
      id: (row) => row.id,
      columns: [
        ["NAME", (row) => row.name],
        ["VALUE", (row) => `number ${row.version}`],
        ["SET", (row) => when(row.updatedAt)],
        ["ID", (row) => row.id],
      ],
      none: `No secrets. Make one: ${cli.settings.invocation} secret create <name> --secret-file <file>`,
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    verb(secret, {
      usage: "delete <secret>",
      summary: "Delete a secret that nothing published or deployed has",
      examples: ["secret delete orders-key --yes"],
    })
      .option("-y, --yes", "do not ask")
      .option("--force", "also while it is in use: what asks for the value again fails"),
  ).action(async (id: string, flags: ConnectionFlags & { yes?: boolean; force?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.secrets.getSecret({ id });
    await confirm(cli, flags, `delete secret ${found.name}, with all ${found.version} of its values`);
    await api.secrets.deleteSecret({ id: found.id, etag: found.etag, force: flags.force ?? false });
    printDone(cli, flags, {
      schema: SecretSchema,
      message: found,
      id: found.id,
      text: `Secret ${found.name} is deleted.`,
    });
  });
  return secret;
}

/** Never as an argument: `ps` shows those to everybody. */
function valued(command: Command): Command {
  return command.requiredOption("--secret-file <file>", "file with the value; - reads standard input");
}
