/** The end of a publish in the trace of the call that made it. */
import type { EnginePorts } from "../commands/index.ts";
import type { Work } from "../platform/transactions.ts";

/** States in which a publish has come to its end, or to what it was wished for. */
const outcomes: ReadonlySet<string> = new Set(["LIVE", "FAILED", "UNPUBLISHED"]);

/** Adds a span from the publish to its outcome, for those that are traced. Asks nothing where nobody traces. */
export async function traceOutcomes(
  ports: EnginePorts,
  work: Work,
  changed: readonly { id: string; state: string; reason: string; seconds: number | null }[],
): Promise<void> {
  const { traces } = ports;
  const ended = changed.filter((row) => outcomes.has(row.state));
  if (traces === undefined || !traces.on || ended.length === 0) return;
  const rows = await work.tx
    .selectFrom("publish_targets as t")
    .innerJoin("commands as c", "c.id", "t.command_id")
    .select(["t.product_publish_id as id", "c.trace_parent as parent"])
    .distinctOn("t.product_publish_id")
    .where(
      "t.product_publish_id",
      "in",
      ended.map((row) => row.id),
    )
    .where("c.trace_parent", "<>", "")
    .orderBy("t.product_publish_id")
    .orderBy("t.agent_id")
    .execute();
  const parents = new Map(rows.map((row) => [row.id, row.parent]));
  work.after(() => {
    for (const { id, state, reason, seconds } of ended) {
      const at = Date.now() - (seconds ?? 0) * 1000;
      const attributes = { "bowline.publish": id, "bowline.state": state };
      traces.part("publish.outcome", { parent: parents.get(id) ?? "", at, attributes }).end(reason || undefined);
    }
  });
}
