/** `bowline service-account`: API tokens bound to a role. */
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import { roleName, roleNumber } from "@bowline/contract";
import type { RoleName } from "@bowline/contract";
import {
  ListServiceAccountsResponseSchema,
  ServiceAccount_State,
  ServiceAccountSchema,
} from "@bowline/contract/identity";
import { Option } from "commander";
import type { Command } from "commander";
import { connected, listed, noun, spanArgument, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { json, printDone, printJson, printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { issueInto } from "../secrets.ts";
import { enumName, nothing, when } from "../text.ts";

export function serviceAccountCommand(cli: Cli): Command {
  const account = noun("service-account", "Service accounts: API tokens bound to a role");

  connected(
    verb(account, {
      usage: "create <name>",
      summary: "Create a service account and print its API token",
      examples: ["service-account create ci --role provider --organisation acme --save acme.token"],
      more: "The token is shown once; the server keeps only a hash of it. Nobody grants a role above their own.",
    })
      .addOption(
        new Option("--role <role>", "what it may do")
          .choices(["admin", "operator", "provider", "customer", "viewer"])
          .makeOptionMandatory(),
      )
      .option("--organisation <organisation>", "the organisation that it acts for (default: yours)")
      .option("--ttl <time>", "its life, 1min to 3650d (default: 90d)", spanArgument)
      .option("--save <file>", "write the token into a new file (mode 0600) instead of showing it"),
  ).action(
    async (
      name: string,
      flags: ConnectionFlags & { role: RoleName; organisation?: string; ttl?: number; save?: string },
    ) => {
      const api = await openApi(cli, flags);
      const { made, file } = await issueInto(cli, flags.save, () =>
        api.serviceAccounts.createServiceAccount({
          name,
          role: roleNumber(flags.role),
          organisationId: flags.organisation,
          ttl: flags.ttl === undefined ? undefined : durationFromMs(flags.ttl),
        }),
      );
      if (flags.output === "json") return printJson(cli, json(ServiceAccountSchema, made));
      if (flags.quiet === true) return cli.print(made.id);
      cli.note(
        `Service account ${made.name} (${roleName(made.role) ?? "?"}) is made. Valid until ${when(made.expiresAt)}. Its token is shown once.\n`,
      );
      cli.print(file === undefined ? made.token : `in ${file}`);
      cli.note(
        `\nTo use it: ${cli.settings.invocation} login ${api.target.url} --context ${made.name} --token-file ${file ?? "<file>"}`,
      );
    },
  );

  connected(
    listed(
      verb(account, {
        usage: "list",
        summary: "List service accounts, without their tokens",
        examples: ["service-account list --organisation acme"],
      }),
    ).option("--organisation <organisation>", "only of this organisation"),
  ).action(async (flags: ListFlags & { organisation?: string }) => {
    const api = await openApi(cli, flags);
    const response = await allPages(
      flags.limit,
      (page) => api.serviceAccounts.listServiceAccounts({ ...page, organisationId: flags.organisation }),
      (page) => page.serviceAccounts,
    );
    printList(cli, flags, {
      schema: ListServiceAccountsResponseSchema,
      response,
      rows: response.serviceAccounts,
      id: (row) => row.id,
      columns: [
        ["NAME", (row) => row.name],
        ["ROLE", (row) => roleName(row.role) ?? nothing],
        ["STATE", (row) => enumName(ServiceAccount_State, row.state).toLowerCase()],
        ["EXPIRES", (row) => (row.expiresAt === undefined ? "never" : when(row.expiresAt))],
        ["LAST USED", (row) => (row.lastUsedAt === undefined ? "never" : when(row.lastUsedAt))],
        ["ID", (row) => row.id],
      ],
      none: "No service accounts.",
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    verb(account, {
      usage: "revoke <id>",
      summary: "End a service account at once",
      examples: ["service-account revoke sa_01k3… --yes"],
    }).option("-y, --yes", "do not ask"),
  ).action(async (id: string, flags: ConnectionFlags & { yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.serviceAccounts.getServiceAccount({ id });
    await confirm(
      cli,
      flags,
      `revoke service account ${found.name} (${roleName(found.role) ?? "?"}), last used ${when(found.lastUsedAt)}`,
    );
    const revoked = await api.serviceAccounts.revokeServiceAccount({ id: found.id });
    printDone(cli, flags, {
      schema: ServiceAccountSchema,
      message: revoked,
      id: revoked.id,
      text: `Service account ${revoked.name} is revoked.`,
    });
  });
  return account;
}
