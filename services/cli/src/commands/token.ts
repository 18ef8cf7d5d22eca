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
import { usage } from "../failure.ts";
import { issueInto } from "../secrets.ts";
import { clockTime, enumName, nothing, when } from "../text.ts";

type TokenFlags = {
  cluster?: string;
  rekey?: string;
  ttl?: number;
  maxUses?: number;
  save?: string;
  dockerHost?: string;
};

function printLines(cli: Cli, text: string): void {
  for (const line of text.trimEnd().split("\n")) cli.print(`  ${line}`);
}

export function tokenCommand(cli: Cli): Command {
  const token = noun("token", "Registration tokens, with which agents join a cluster");

  connected(
    verb(token, {
      usage: "create",
      summary: "Issue a registration token and print the line that joins an agent",
      examples: [
        "token create --cluster factory-7",
        "token create --cluster local --save token",
        "token create --cluster factory-7 --docker-host tcp://10.0.0.5:2376 --save token",
        "token create --rekey press-3 --save token",
      ],
      more:
        "The token is shown once; the server keeps only a hash of it. With --rekey the next one to join is that agent: it keeps\n" +
        "its id, name and deployments, which it gets again, and the host that was it before is refused.",
    })
      .option("--cluster <cluster>", "the cluster that it enrols into")
      .option("--rekey <agent>", "instead of enrolling a new agent, give this one new keys: a dead host's replacement")
      .option("--ttl <time>", "its life, 1s to 30d (default: 1h)", spanArgument)
      .option(
        "--max-uses <n>",
        "how many agents it enrols; more than one needs the cluster's policy (default: 1)",
        countArgument,
      )
      .option(
        "--docker-host <address>",
        "for the printed lines, the agent's engine: unix:///… or tcp://host:port (default: the host's socket)",
      )
      .option("--save <file>", "write the token into a new file (mode 0600) instead of showing it"),
  ).action(async (flags: ConnectionFlags & TokenFlags) => {
    if (flags.cluster === undefined && flags.rekey === undefined)
      throw usage("Give --cluster, or --rekey with an agent.", { next: ["cluster list"] });
    const api = await openApi(cli, flags);
    const agent = flags.rekey === undefined ? undefined : await api.agents.getAgent({ id: flags.rekey });
    const cluster = await api.clusters.getCluster({ id: flags.cluster ?? agent?.clusterId ?? "" });
    const { made, file } = await issueInto(cli, flags.save, () =>
      api.tokens.createRegistrationToken({
        clusterId: cluster.id,
        ttl: flags.ttl === undefined ? undefined : durationFromMs(flags.ttl),
        maxUses: flags.maxUses,
        rekeyAgentId: agent?.id,
        dockerHost: flags.dockerHost,
      }),
    );
    if (flags.output === "json") return printJson(cli, json(RegistrationTokenSchema, made));
    if (flags.quiet === true) return cli.print(made.id);

    const until = made.expiresAt === undefined ? "" : ` Valid until ${clockTime(made.expiresAt)},`;
    const uses = made.maxUses === 1 ? "one agent" : `${made.maxUses} agents`;
    const what =
      agent === undefined
        ? `for cluster ${cluster.name}`
        : `that gives agent ${agent.name} of ${cluster.name} new keys`;
    const times = agent === undefined ? `for ${uses}` : "once";
    cli.note(`Registration token ${what} (${cluster.runtime}).${until} ${times}. It is shown once.\n`);
    cli.print(file === undefined ? `  ${made.token}` : `  in ${file}`);
    cli.note(
      `\nOn the host, with the token in a file${file === undefined ? ' "token"' : ""} or in BOWLINE_REGISTRATION_TOKEN:`,
    );
    const saved = flags.save ?? "token"; // the server's lines name the file "token"
    const join = made.joinCommand.replace(/--token-file token\b/, () => `--token-file ${saved}`);
    const container = made.containerCommand.replace("$(cat token)", () => `$(cat ${saved})`);
    printLines(cli, join);
    if (container === "") return;
    cli.note("or as a container of its engine, which keeps it running:");
    printLines(cli, container);
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
        ["REKEYS", (row) => row.rekeyAgentId || nothing],
        ["EXPIRES", (row) => when(row.expiresAt)],
        ["ISSUED", (row) => when(row.createdAt)],
        ["BY", (row) => row.createdByName || row.createdBy || nothing],
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
