/**
 * pg-boss 12 with what its documentation has for throughput and latency
 * (docs/api/workers.md): LISTEN/NOTIFY wakes workers, several of them fetch in
 * batches, a full batch is followed by another without a wait, and each job of
 * a batch is settled for itself. `send` per call.
 */
import { PgBoss } from "pg-boss";
import { connections, type Job, jobsTogether, type Queue, type QueuePorts } from "./queue.ts";

const queue = "dispatch";
/** So that as many jobs can be under way as there are callers. */
const workers = 16;
const lookAgainMs = 5;

export async function pgBoss({ databaseUrl, carryOut, done }: QueuePorts): Promise<Queue> {
  const boss = new PgBoss({ connectionString: databaseUrl, max: connections, useListenNotify: true });
  boss.on("error", (error) => process.stderr.write(`${String(error)}\n`));
  await boss.start();
  await boss.createQueue(queue, { notify: true });
  await boss.work<Job>(
    queue,
    {
      ...{ batchSize: jobsTogether / workers, localConcurrency: workers, pollingIntervalSeconds: 0.5 },
      ...{ notifyPollingIntervalSeconds: 0.5, burstWhenBatchFull: true, perJobResults: true },
    },
    (jobs) =>
      Promise.all(
        jobs.map(async ({ id, data }) => {
          await carryOut(data);
          done(data.commandId); // its batch is completed a moment later: in the peer's favour
          return { id, status: "completed" as const };
        }),
      ),
  );
  return {
    async add(job) {
      if ((await boss.send(queue, job)) === null) throw new Error("pg-boss took no job");
    },
    async settled() {
      for (;;) {
        const { rows } = await boss
          .getDb()
          .executeSql("SELECT count(*)::int AS left FROM pgboss.job WHERE name = $1 AND state < 'completed'", [queue]);
        if ((rows[0] as { left: number } | undefined)?.left === 0) return;
        await new Promise((resolve) => setTimeout(resolve, lookAgainMs));
      }
    },
    stop: () => boss.stop({ graceful: false }),
  };
}
