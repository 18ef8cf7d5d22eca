/** `bowline audit`: who changed what, when, from where. */
import { ListAuditEventsResponseSchema } from "@bowline/contract/audit";
import type { Command } from "commander";
import { connected, listed, noun, verb } from "../cli.ts";
import type { Cli, ListFlags } from "../cli.ts";
import { openApi } from "../client.ts";
import { printList } from "../output.ts";
import { allPages, sayMore } from "../pages.ts";
import { nothing, when } from "../text.ts";

export function auditCommand(cli: Cli): Command {
  const audit = noun("audit", "Audit events: who changed what, when, from where");
  connected(
    listed(
      verb(audit, {
        usage: "list",
        summary: "List audit events, newest first",
        examples: ["audit list --limit 20", "audit list --action cluster. -o json"],
        more: "Before and after are in the JSON.",
      })
        .option("--resource <id>", "only about this resource")
        .option("--principal <id>", "only by this principal")
        .option("--action <prefix>", "only actions that start with this, e.g. `cluster.`"),
    ),
  ).action(async (flags: ListFlags & { resource?: string; principal?: string; action?: string }) => {
    const api = await openApi(cli, flags);
    const filter = { resourceId: flags.resource, principalId: flags.principal, actionPrefix: flags.action };
    const response = await allPages(
      flags.limit,
      (page) => api.audit.listAuditEvents({ ...page, ...filter }),
      (page) => page.auditEvents,
    );
    printList(cli, flags, {
      schema: ListAuditEventsResponseSchema,
      response,
      rows: response.auditEvents,
      id: (row) => row.id,
      columns: [
        ["WHEN", (row) => when(row.at)],
        ["WHO", (row) => row.principal || row.principalId || nothing],
        ["WHAT", (row) => row.action],
        ["ON", (row) => row.resourceId || nothing],
        ["OUTCOME", (row) => row.outcome],
        ["FROM", (row) => row.remoteAddress || nothing],
      ],
      none: "No audit events match.",
    });
    sayMore(cli, flags, response, flags.limit);
  });
  return audit;
}
