/** `bowline registry`: with which credentials agents pull images. */
import { ListRegistriesResponseSchema, RegistrySchema } from "@bowline/contract/registries";
import type { Command } from "commander";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { usage } from "../failure.ts";
import { printDone, printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { readValue } from "../secrets.ts";
import { when } from "../text.ts";

type CreateFlags = ConnectionFlags & { username: string; passwordFile: string; description?: string };
type UpdateFlags = ConnectionFlags & { username?: string; passwordFile?: string; description?: string };
type DeleteFlags = ConnectionFlags & { yes?: boolean; force?: boolean };

const passwordHelp = "file with the password or token; - reads standard input";

export function registryCommand(cli: Cli): Command {
  const registry = noun(
    "registry",
    "Image registries and the credentials that agents pull with; passwords are never shown",
  );
  addChanges(cli, registry);

  connected(
    listed(
      verb(registry, { usage: "list", summary: "List registries, without passwords", examples: ["registry list"] }),
    ),
  ).action(async (flags: ListFlags) => {
    const api = await openApi(cli, flags);
    const response = await allPages(
      flags.limit,
      (page) => api.registries.listRegistries(page),
      (page) => page.registries,
    );
    printList(cli, flags, {
      schema: ListRegistriesResponseSchema,
      response,
      rows: response.registries,
      id: (row) => row.id,
      columns: [
        ["HOST", (row) => row.host],
        ["USER", (row) => row.username],
        ["PASSWORD SET", (row) => when(row.passwordSetAt)],
        ["DESCRIPTION", (row) => row.description],
        ["ID", (row) => row.id],
      ],
      none: `No registries: images are pulled without a credential. Make one: ${cli.settings.invocation} registry create <host> --username <name> --password-file <file>`,
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    verb(registry, {
      usage: "delete <registry>",
      summary: "Delete a registry that nothing deployed pulls from",
      examples: ["registry delete registry.example.com:5000 --yes"],
    })
      .option("-y, --yes", "do not ask")
      .option("--force", "also while it is in use: the next pull there has no credential"),
  ).action(async (id: string, flags: DeleteFlags) => {
    const api = await openApi(cli, flags);
    const found = await api.registries.getRegistry({ id });
    await confirm(cli, flags, `delete registry ${found.host}, with its credential`);
    await api.registries.deleteRegistry({ id: found.id, etag: found.etag, force: flags.force ?? false });
    printDone(cli, flags, {
      schema: RegistrySchema,
      message: found,
      id: found.id,
      text: `Registry ${found.host} is deleted.`,
    });
  });
  return registry;
}

/** The password is never an argument: `ps` shows those to everybody. */
function addChanges(cli: Cli, registry: Command): void {
  connected(
    verb(registry, {
      usage: "create <host>",
      summary: "Say with which credential images of a registry are pulled",
      examples: [
        "registry create registry.example.com:5000 --username ci --password-file registry.password",
        "vault read -field=token hub | bowline registry create docker.io --username team --password-file -",
      ],
      more: "The host is the one that image names begin with; docker.io is the one of names without a host.",
    })
      .requiredOption("--username <name>", "who pulls")
      .requiredOption("--password-file <file>", passwordHelp)
      .option("--description <text>", "for people"),
  ).action(async (host: string, flags: CreateFlags) => {
    const api = await openApi(cli, flags);
    const { username, description = "" } = flags;
    const password = await readValue(cli, flags.passwordFile);
    const made = await api.registries.createRegistry({ registry: { host, username, description, password } });
    printDone(cli, flags, {
      schema: RegistrySchema,
      message: made,
      id: made.id,
      text: `Registry ${made.host} is made: agents pull from it as ${made.username}.`,
    });
  });

  connected(
    verb(registry, {
      usage: "update <registry>",
      summary: "Change the password, user name or description of a registry",
      examples: ["registry update registry.example.com:5000 --password-file registry.password"],
      more: "Agents have it with their next pull; nothing is restarted.",
    })
      .option("--username <name>", "who pulls")
      .option("--password-file <file>", passwordHelp)
      .option("--description <text>", "for people"),
  ).action(async (id: string, flags: UpdateFlags) => {
    const { username, passwordFile, description } = flags;
    const changes = { username, password: passwordFile, description };
    const paths = Object.entries(changes).flatMap(([path, value]) => (value === undefined ? [] : [path]));
    if (paths.length === 0) throw usage("nothing to change: give --username, --password-file or --description");
    const api = await openApi(cli, flags);
    const password = passwordFile === undefined ? "" : await readValue(cli, passwordFile);
    const changed = await api.registries.updateRegistry({
      registry: { id, username: username ?? "", description: description ?? "", password },
      updateMask: { paths },
    });
    printDone(cli, flags, {
      schema: RegistrySchema,
      message: changed,
      id: changed.id,
      text: `Registry ${changed.host} is changed. The next pull takes it.`,
    });
  });
}
