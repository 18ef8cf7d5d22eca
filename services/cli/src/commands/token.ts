/** `bowline token`: registration tokens, with which agents join. */
import { durationFromMs } from "@bufbuild/protobuf/wkt";
import {
  ListRegistrationTokensResponseSchema,
  RegistrationToken_State,
  RegistrationTokenSchema,
} from "@bowline/contract/clusters";
import type { Command } from "commander";
import { connected, countArgument, listed, noun, spanArgument, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { confirm } from "../confirm.ts";
import { hint, json, printDone, printJson, printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { reserveTokenFile } from "../secrets.ts";
import { clockTime, enumName, nothing, when } from "../text.ts";

export function tokenCommand(cli: Cli): Command {
  const token = noun("token", "Registration tokens, with which agents join a cluster");

  connected(
    verb(token, {
      usage: "create",
      summary: "Issue a registration token and print the line that joins an agent",
      examples: ["token create --cluster factory-7", "token create --cluster local --save token"],
      more: "The token is shown once; the server keeps only a hash of it.",
    })
      .requiredOption("--cluster <cluster>", "the cluster that it enrols into")
      .option("--ttl <time>", "its life, 1s to 30d (default: 1h)", spanArgument)
      .option(
        "--max-uses <n>",
        "how many agents it enrols; more than one needs the cluster's policy (default: 1)",
        countArgument,
      )
      .option("--save <file>", "write the token into a new file (mode 0600) instead of showing it"),
  ).action(async (flags: ConnectionFlags & { cluster: string; ttl?: number; maxUses?: number; save?: string }) => {
    const api = await openApi(cli, flags);
    const cluster = await api.clusters.getCluster({ id: flags.cluster });
    const file = flags.save === undefined ? undefined : await reserveTokenFile(cli, flags.save);
    const made = await api.tokens.createRegistrationToken({
      clusterId: cluster.id,
      ttl: flags.ttl === undefined ? undefined : durationFromMs(flags.ttl),
      maxUses: flags.maxUses,
    });
    await file?.write(made.token);
    if (file !== undefined) made.token = "";
    if (flags.output === "json") return printJson(cli, json(RegistrationTokenSchema, made));
    if (flags.quiet === true) return cli.print(made.id);

    const until = made.expiresAt === undefined ? "" : ` Valid until ${clockTime(made.expiresAt)},`;
    const uses = made.maxUses === 1 ? "one agent" : `${made.maxUses} agents`;
    cli.note(
      `Registration token for cluster ${cluster.name} (${cluster.runtime}).${until} for ${uses}. It is shown once.\n`,
    );
    cli.print(file === undefined ? `  ${made.token}` : `  in ${file.path}`);
    cli.note(
      `\nOn the host, with the token in a file${file === undefined ? ' "token"' : ""} or in BOWLINE_REGISTRATION_TOKEN:`,
    );
    // The server's line names the file "token".
    const join = made.joinCommand.trimEnd().replace(/--token-file token\b/, `--token-file ${flags.save ?? "token"}`);
    for (const line of join.split("\n")) cli.print(`  ${line}`);
  });

  connected(
    listed(
      verb(token, {
        usage: "list",
        summary: "List registration tokens, without their secrets",
        examples: ["token list --cluster factory-7"],
      }),
    ).requiredOption("--cluster <cluster>", "the cluster that they enrol into"),
  ).action(async (flags: ListFlags & { cluster: string }) => {
    const api = await openApi(cli, flags);
    const response = await allPages(
      flags.limit,
      (page) => api.tokens.listRegistrationTokens({ ...page, clusterId: flags.cluster }),
      (page) => page.registrationTokens,
    );
    printList(cli, flags, {
      schema: ListRegistrationTokensResponseSchema,
      response,
      rows: response.registrationTokens,
      id: (row) => row.id,
      columns: [
        ["ID", (row) => row.id],
        ["STATE", (row) => enumName(RegistrationToken_State, row.state).toLowerCase()],
        ["USES", (row) => `${row.uses}/${row.maxUses}`],
        ["EXPIRES", (row) => when(row.expiresAt)],
        ["ISSUED", (row) => when(row.createdAt)],
        ["BY", (row) => row.createdBy || nothing],
      ],
      none: `No registration tokens. Issue one: ${cli.settings.invocation} token create --cluster ${flags.cluster}`,
    });
    sayMore(cli, flags, response, flags.limit);
  });

  connected(
    verb(token, {
      usage: "revoke <id>",
      summary: "End a registration token; agents that it enrolled stay",
      examples: ["token revoke rt_01k3… --yes"],
    }).option("-y, --yes", "do not ask"),
  ).action(async (id: string, flags: ConnectionFlags & { yes?: boolean }) => {
    const api = await openApi(cli, flags);
    const found = await api.tokens.getRegistrationToken({ id });
    await confirm(cli, flags, `revoke registration token ${found.id}, used ${found.uses} of ${found.maxUses} times`);
    const revoked = await api.tokens.revokeRegistrationToken({ id });
    const state = enumName(RegistrationToken_State, revoked.state).toLowerCase();
    printDone(cli, flags, {
      schema: RegistrationTokenSchema,
      message: revoked,
      id: revoked.id,
      text: `Registration token ${revoked.id}: ${state}.`,
    });
    if (revoked.agentIds.length > 0)
      hint(
        cli,
        flags,
        `Agents that it enrolled stay: ${revoked.agentIds.join(", ")}. To end one:`,
        "agent revoke <name>",
      );
  });
  return token;
}
