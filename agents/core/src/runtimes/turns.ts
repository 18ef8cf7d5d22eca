/** One thing at a time per deployment, in the order of the calls. */
export interface Turns {
  take<T>(deploymentId: string, work: () => Promise<T>): Promise<T>;
  /** Resolves when what has begun or waits now has ended, however. */
  idle(): Promise<void>;
}

export function createTurns(): Turns {
  const turns = new Map<string, Promise<unknown>>();
  return {
    async take(deploymentId, work) {
      const before = turns.get(deploymentId) ?? Promise.resolve();
      const mine = before.then(work, work);
      turns.set(deploymentId, mine);
      try {
        return await mine;
      } finally {
        if (turns.get(deploymentId) === mine) turns.delete(deploymentId);
      }
    },
    async idle() {
      await Promise.allSettled(turns.values());
    },
  };
}
