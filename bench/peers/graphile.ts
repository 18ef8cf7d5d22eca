/**
 * graphile-worker 0.18 with the settings of its page on performance
 * (https://worker.graphile.org/docs/performance, "With batching"): a local
 * queue of 500, completions that gather without a delay, a pool of 25. There
 * jobs are trivial and 24 run at once; here each waits for an agent, so as many
 * run at once as commands are under way. `addJob` per call, as documented.
 *
 * `batched`: callers share statements too, as Bowline's do: what comes while one
 * `addJobs` is under way goes with the next.
 */
import { Logger, run, type Runner } from "graphile-worker";
import pg from "pg";
import { connections, type Job, jobsTogether, type Queue, type QueuePorts } from "./queue.ts";

const task = "dispatch";
/** Jobs in one statement at most, as Bowline's sets. */
const maxSet = 100;
const lookAgainMs = 2;

export async function graphile(ports: QueuePorts, { batched }: { batched: boolean }): Promise<Queue> {
  const pool = new pg.Pool({ connectionString: ports.databaseUrl, max: connections });
  pool.on("error", () => undefined); // the next statement tells
  const runner: Runner = await run({
    pgPool: pool,
    preset: {
      worker: {
        ...{ concurrentJobs: jobsTogether, maxPoolSize: connections, localQueue: { size: 500 } },
        ...{ completeJobBatchDelay: 0, failJobBatchDelay: 0 },
        logger: new Logger(() => () => undefined),
      },
    },
    noHandleSignals: true,
    taskList: { [task]: (payload) => ports.carryOut(payload as Job) },
  });
  // When it has been given to the completing batch, which commits a moment later: in the peer's favour.
  runner.events.on("job:complete", ({ job }) => ports.done((job.payload as Job).commandId));
  const utils = await gathering(pool);
  return {
    add: async (job) => {
      if (batched) await utils.add(job);
      else await runner.addJob(task, job);
    },
    async settled() {
      for (;;) {
        const { rows } = await pool.query<{ left: string }>(
          "SELECT count(*) AS left FROM graphile_worker._private_jobs",
        );
        if (rows[0]?.left === "0") return;
        await new Promise((resolve) => setTimeout(resolve, lookAgainMs));
      }
    },
    async stop() {
      await runner.stop();
      await pool.end();
    },
  };
}

interface Waiting {
  job: Job;
  resolve: () => void;
  reject: (error: unknown) => void;
}

/** The glue: what gathers while a set is written is the next set. */
async function gathering(pool: pg.Pool): Promise<{ add(job: Job): Promise<void> }> {
  const queue: Waiting[] = [];
  let running = false;
  const drain = async (): Promise<void> => {
    running = true;
    while (queue.length > 0) {
      const set = queue.splice(0, maxSet);
      try {
        // What addJobs() says (https://worker.graphile.org/docs/sql-add-job#graphile_workeradd_jobs), prepared.
        await pool.query({
          name: "add_jobs",
          text: `SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
            SELECT json_populate_record(NULL::graphile_worker.job_spec, spec) FROM json_array_elements($1::json) AS spec))`,
          values: [JSON.stringify(set.map(({ job }) => ({ identifier: task, payload: job })))],
        });
        for (const { resolve } of set) resolve();
      } catch (error) {
        for (const { reject } of set) reject(error);
      }
    }
    running = false;
  };
  return {
    add: (job) =>
      new Promise((resolve, reject) => {
        queue.push({ job, resolve, reject });
        if (!running) void drain();
      }),
  };
}
