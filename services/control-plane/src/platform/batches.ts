/**
 * Hot writes share commits: while one set is being written, the next one
 * gathers. Nobody waits at low load; at high load sets grow by themselves.
 *
 * S1: at most one set per batcher is under way, so that messages of one agent
 *     are written in the order in which they came.
 * S2: a set that fails as a whole is replayed one by one, so that one bad row
 *     costs that row; unless what it failed of is everybody's.
 * S3: a set of patient items begins no sooner than their time to gather after
 *     the last one began; an impatient one takes with it all that came before.
 */
export interface Batcher<Item, Answer> {
  /** Resolves with the answer of the set in which the item was written. Rejects if it failed even alone. */
  add(item: Item): Promise<Answer>;
  /** Items that wait, for metrics. */
  waiting(): number;
}

/** Rows in one transaction: enough to share a commit well, few enough to hold locks shortly. */
const defaultMaxSet = 100;

/**
 * Writes sets with `write`, which answers one per item in their order.
 * `maxWaiting` bounds the queue: callers above it are refused with `overloaded()`.
 */
export function createBatcher<Item, Answer>(
  write: (items: readonly Item[]) => Promise<readonly Answer[]>,
  bounds: {
    maxWaiting: number;
    overloaded: () => Error;
    /** Items in one set. Default: 100. */
    maxSet?: number;
    /** Each of the set fails of this error, and nothing is replayed. Default: of none. */
    everybodys?: (error: unknown) => boolean;
    /** Items whose callers wait for nothing (S3). Default: none. */
    patient?: { are: (item: Item) => boolean; gatherMs: number };
  },
): Batcher<Item, Answer> {
  interface Waiting {
    item: Item;
    resolve: (answer: Answer) => void;
    reject: (error: unknown) => void;
  }
  const queue: Waiting[] = [];
  const { patient } = bounds;
  let running = false;
  let impatient = 0;
  let beganAt = Number.NEGATIVE_INFINITY;
  let gathering: NodeJS.Timeout | undefined;

  const hurried = (set: readonly Waiting[]): number =>
    patient === undefined ? set.length : set.filter(({ item }) => !patient.are(item)).length;

  /** How long what is queued may gather yet (S3). */
  const restMs = (): number =>
    impatient > 0 || patient === undefined ? 0 : beganAt + patient.gatherMs - performance.now();

  async function drain(): Promise<void> {
    if (running) return;
    running = true;
    clearTimeout(gathering);
    gathering = undefined;
    while (queue.length > 0 && restMs() <= 0) {
      beganAt = performance.now();
      const set = queue.splice(0, bounds.maxSet ?? defaultMaxSet);
      impatient -= hurried(set);
      try {
        settle(set, await write(set.map((waiting) => waiting.item)));
      } catch (error) {
        if (set.length === 1 || bounds.everybodys?.(error) === true) for (const waiting of set) waiting.reject(error);
        else for (const waiting of set) await alone(waiting); // S2
      }
    }
    running = false;
    if (queue.length > 0) gathering = setTimeout(() => void drain(), restMs());
  }

  async function alone(waiting: Waiting): Promise<void> {
    try {
      settle([waiting], await write([waiting.item]));
    } catch (error) {
      waiting.reject(error);
    }
  }

  function settle(set: readonly Waiting[], answers: readonly Answer[]): void {
    for (const [index, waiting] of set.entries()) waiting.resolve(answers[index] as Answer);
  }

  return {
    add(item) {
      if (queue.length >= bounds.maxWaiting) return Promise.reject(bounds.overloaded());
      return new Promise((resolve, reject) => {
        const waiting = { item, resolve, reject };
        queue.push(waiting);
        impatient += hurried([waiting]);
        if (gathering === undefined || impatient > 0) void drain();
      });
    },
    waiting: () => queue.length,
  };
}
