/** Lists come in pages; a command shows them as one. */
import type { Cli } from "./cli.ts";
import { hint } from "./output.ts";
import type { OutputFlags } from "./output.ts";

/** The API's largest page. */
const maxPageSize = 1_000;

type Page = { nextPageToken: string };

/**
 * Fetches pages until `limit` rows are there or the list ends, and puts the
 * rows of all of them into the last answer, so that its JSON is one of the
 * API's own. `nextPageToken` of the result is set where there is more.
 */
export async function allPages<P extends Page, T>(
  limit: number,
  fetch: (request: { pageSize: number; pageToken: string }) => Promise<P>,
  rowsOf: (page: P) => T[],
): Promise<P> {
  let page = await fetch({ pageSize: Math.min(limit, maxPageSize), pageToken: "" });
  const rows = [...rowsOf(page)];
  while (page.nextPageToken !== "" && rows.length < limit) {
    page = await fetch({ pageSize: Math.min(limit - rows.length, maxPageSize), pageToken: page.nextPageToken });
    rows.push(...rowsOf(page));
  }
  const last = rowsOf(page);
  last.splice(0, last.length, ...rows);
  return page;
}

/** Says that the list was cut. */
export function sayMore(cli: Cli, flags: OutputFlags, page: Page, limit: number): void {
  if (page.nextPageToken !== "") hint(cli, flags, `There are more than ${limit}: --limit ${limit * 5} shows more.`);
}
