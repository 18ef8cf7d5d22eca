/** While one set is being written the next one gathers: platform/batches.ts of the product. */
export function createBatcher<Item, Answer>(
  write: (items: readonly Item[]) => Promise<readonly Answer[]>,
): (item: Item) => Promise<Answer> {
  interface Waiting {
    item: Item;
    resolve: (answer: Answer) => void;
    reject: (error: unknown) => void;
  }
  const queue: Waiting[] = [];
  let running = false;

  async function drain(): Promise<void> {
    running = true;
    while (queue.length > 0) {
      const set = queue.splice(0);
      try {
        await together(set);
      } catch (error) {
        if (set.length === 1) set[0]?.reject(error);
        else for (const one of set) await together([one]).catch(one.reject);
      }
    }
    running = false;
  }

  async function together(set: readonly Waiting[]): Promise<void> {
    const answers = await write(set.map((waiting) => waiting.item));
    for (const [index, waiting] of set.entries()) waiting.resolve(answers[index] as Answer);
  }

  return (item) =>
    new Promise((resolve, reject) => {
      queue.push({ item, resolve, reject });
      if (!running) void drain();
    });
}
