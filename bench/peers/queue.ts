/**
 * What a peer's queue has to do in the place of Bowline's engine: keep a job,
 * hand it to whoever carries it out, and keep that it is done.
 */

/** What a job carries. Its spec too: a peer has no table of specs to fetch from. */
export interface Job {
  commandId: string;
  deploymentId: string;
  agentId: string;
  generation: number;
}

export interface Queue {
  /** Resolves when the job is kept as durably as the peer promises. */
  add(job: Job): Promise<void>;
  /** Resolves when everything that was carried out is kept as done. */
  settled(): Promise<void>;
  stop(): Promise<void>;
}

export interface QueuePorts {
  databaseUrl: string;
  redisSocket: string;
  /** Carries a job out; resolves when the agent has reported. */
  carryOut: (job: Job) => Promise<void>;
  /** Called when the peer says that it has completed the job. */
  done: (commandId: string) => void;
}

/** Jobs that wait for their agents at the same time: as many as callers there are, so that none waits for a worker. */
export const jobsTogether = 256;
/** Of a peer's pool, as graphile-worker's measurements have it. */
export const connections = 25;

/** The same without keeping anything. */
export function noQueue({ carryOut, done }: QueuePorts): Queue {
  return {
    async add(job) {
      void carryOut(job).then(() => done(job.commandId));
    },
    settled: async () => undefined,
    stop: async () => undefined,
  };
}
