/**
 * BullMQ 6 with its documented settings for production
 * (https://docs.bullmq.io/guide/going-to-production,
 * https://docs.bullmq.io/guide/workers/concurrency): jobs that are done are
 * removed, a worker of high concurrency because jobs wait for others. Another
 * contract: Redis writes to the disk once per second, so what was accepted in
 * the second before a crash can be lost.
 */
import { Queue as BullQueue, Worker } from "bullmq";
import { Redis } from "ioredis";
import { type Job, jobsTogether, type Queue, type QueuePorts } from "./queue.ts";

const name = "dispatch";
const lookAgainMs = 2;

export async function bullmq({ redisSocket, carryOut, done }: QueuePorts): Promise<Queue> {
  const open = (): Redis => {
    const client = new Redis(redisSocket, { maxRetriesPerRequest: null });
    client.on("error", () => undefined); // the call under way tells
    return client;
  };
  const [adding, working] = [open(), open()];
  const queue = new BullQueue<Job>(name, {
    connection: adding,
    defaultJobOptions: { removeOnComplete: true, removeOnFail: true },
  });
  const worker = new Worker<Job>(name, (job) => carryOut(job.data), { connection: working, concurrency: jobsTogether });
  worker.on("error", (error) => process.stderr.write(`${String(error)}\n`));
  worker.on("completed", (job) => done(job.data.commandId));
  await worker.waitUntilReady();
  return {
    add: async (job) => void (await queue.add("dispatch", job)),
    async settled() {
      for (;;) {
        const { waiting = 0, active = 0 } = await queue.getJobCounts("waiting", "active");
        if (waiting + active === 0) return;
        await new Promise((resolve) => setTimeout(resolve, lookAgainMs));
      }
    },
    async stop() {
      await worker.close(true);
      await queue.close();
      adding.disconnect();
      working.disconnect();
    },
  };
}
