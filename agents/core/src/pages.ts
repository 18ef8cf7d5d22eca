/** What the agent has, in Sync pages that stay below the stream's limit. */
import { create, toBinary, type MessageInitShape } from "@bufbuild/protobuf";
import { SyncSchema, type Sync } from "@bowline/contract/agent";
import type { Converger } from "./converge.ts";
import type { Journal } from "./journal.ts";

/** Half of a stream message, because a page is measured before its last entry is added. */
const maxPageBytes = 32 * 1024;

type Entry =
  | { journal: NonNullable<MessageInitShape<typeof SyncSchema>["journal"]> }
  | { results: NonNullable<MessageInitShape<typeof SyncSchema>["results"]> }
  | { deployments: NonNullable<MessageInitShape<typeof SyncSchema>["deployments"]> }
  | { highest: NonNullable<MessageInitShape<typeof SyncSchema>["highest"]> };

/** At least one page; the last one says so. `withDeployments`: the server does not know the state digest. */
export function syncPages(journal: Journal, converger: Converger, withDeployments: boolean): Sync[] {
  const pages: Sync[] = [create(SyncSchema)];
  let bytes = 0;
  for (const entry of entries(journal, converger, withDeployments)) {
    const one = create(SyncSchema, entry);
    const size = toBinary(SyncSchema, one).byteLength;
    if (bytes > 0 && bytes + size > maxPageBytes) {
      pages.push(create(SyncSchema));
      bytes = 0;
    }
    const page = pages.at(-1);
    page?.journal.push(...one.journal);
    page?.results.push(...one.results);
    page?.deployments.push(...one.deployments);
    page?.highest.push(...one.highest);
    bytes += size;
  }
  const last = pages.at(-1);
  if (last !== undefined) last.last = true;
  return pages;
}

function* entries(journal: Journal, converger: Converger, withDeployments: boolean): Generator<Entry> {
  for (const { commandId, attempt, deploymentId, generation } of journal.inFlight()) {
    const phase = converger.phaseOf(commandId, attempt) ?? "RECEIVED";
    yield { journal: [{ commandId, attempt, deploymentId, generation, phase }] };
  }
  for (const result of journal.unacknowledged()) yield { results: [result] };
  // Always: a server whose database went back would else take what is removed or under way for what it knows.
  for (const [deploymentId, { generation, digest }] of journal.allHighest()) {
    const good = journal.goodOf(deploymentId);
    if (good?.generation === generation && good.digest === digest) continue;
    yield { highest: [{ deploymentId, generation, digest }] };
  }
  if (!withDeployments) return;
  for (const { deploymentId, generation, digest } of journal.good()) {
    yield { deployments: [{ deploymentId, generation, digest }] };
  }
}
