/** Pages of lists: keyset tokens, so that rows that come or go don't shift a page. */
import { problem } from "@bowline/kernel";

/** Where the API says "0 is 100". */
const defaultPageSize = 100;
const maxPageSize = 1000;

export function pageSize(asked: number): number {
  return asked === 0 ? defaultPageSize : Math.min(asked, maxPageSize);
}

/** A token that goes on after `key` in the list `list` (its name and order). */
export function pageToken(list: string, key: readonly (string | number)[]): string {
  return Buffer.from(JSON.stringify([list, ...key])).toString("base64url");
}

/** The key inside a token; undefined for the first page. Throws PAGE_TOKEN_INVALID. */
export function pageKey(list: string, token: string, length: number): string[] | undefined {
  if (token === "") return undefined;
  try {
    const parsed: unknown = JSON.parse(Buffer.from(token, "base64url").toString());
    if (Array.isArray(parsed) && parsed[0] === list && parsed.length === length + 1) return parsed.slice(1).map(String);
  } catch {
    // Not JSON: the same answer as for a token of another list.
  }
  throw problem("PAGE_TOKEN_INVALID");
}

/** Cuts one row too many off and says where the next page starts. */
export function cutPage<Row>(
  rows: Row[],
  size: number,
  list: string,
  key: (row: Row) => readonly (string | number)[],
): { rows: Row[]; nextPageToken: string } {
  const last = rows[size - 1];
  if (rows.length <= size || last === undefined) return { rows, nextPageToken: "" };
  return { rows: rows.slice(0, size), nextPageToken: pageToken(list, key(last)) };
}
