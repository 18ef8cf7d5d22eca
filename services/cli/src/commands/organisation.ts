/** `bowline organisation`: who owns products, stacks, pipelines. */
import { ListOrganisationsResponseSchema, OrganisationSchema } from "@bowline/contract/identity";
import type { Command } from "commander";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ConnectionFlags, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { hint, printDone, printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { nothing, when } from "../text.ts";

export function organisationCommand(cli: Cli): Command {
  const organisation = noun("organisation", "Organisations: who owns products, stacks, pipelines");

  connected(
    verb(organisation, {
      usage: "create <name>",
      summary: "Create an organisation",
      examples: ["organisation create acme --display-name 'Acme Ltd'"],
    }).option("--display-name <text>", "for people"),
  ).action(async (name: string, flags: ConnectionFlags & { displayName?: string }) => {
    const api = await openApi(cli, flags);
    const made = await api.organisations.createOrganisation({ organisation: { name, displayName: flags.displayName } });
    printDone(cli, flags, {
      schema: OrganisationSchema,
      message: made,
      id: made.id,
      text: `Organisation ${made.name} is made.`,
    });
    hint(
      cli,
      flags,
      "Let it publish, and give it an account:",
      `cluster grant <cluster> ${made.name}`,
      `service-account create ci --organisation ${made.name} --role provider`,
    );
  });

  connected(
    listed(verb(organisation, { usage: "list", summary: "List organisations", examples: ["organisation list"] })),
  ).action(async (flags: ListFlags) => {
    const api = await openApi(cli, flags);
    const response = await allPages(
      flags.limit,
      (page) => api.organisations.listOrganisations(page),
      (page) => page.organisations,
    );
    printList(cli, flags, {
      schema: ListOrganisationsResponseSchema,
      response,
      rows: response.organisations,
      id: (row) => row.id,
      columns: [
        ["NAME", (row) => row.name],
        ["DISPLAY NAME", (row) => row.displayName || nothing],
        ["CREATED", (row) => when(row.createdAt)],
        ["ID", (row) => row.id],
      ],
      none: "No organisations.",
    });
    sayMore(cli, flags, response, flags.limit);
  });
  return organisation;
}
