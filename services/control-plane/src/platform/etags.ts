/** ETags are the row's version. */
import { problem } from "@bowline/kernel";

export function etagOf(version: number): string {
  return String(version);
}

/** Throws STALE_ETAG where a guard is given and does not match. Quotes and a weak prefix, as HTTP writes them, are taken. */
export function guardEtag(given: string, version: number): void {
  if (given === "" || given === "*") return;
  if (given.replace(/^W\//, "").replaceAll('"', "") !== etagOf(version)) throw problem("STALE_ETAG");
}
