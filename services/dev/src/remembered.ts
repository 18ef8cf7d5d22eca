/** What the next `npm start` in this data directory takes again. */
import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";

export type Remembered = {
  /** Port of the example's backend: with the same one the product is the same, and nothing is published anew. */
  backendPort?: number;
};

const fileName = "dev-state.json";

/** Nothing where there is none, or none that can be read: it only saves time. */
export async function recall(dataDir: string): Promise<Remembered> {
  try {
    const { backendPort } = JSON.parse(await readFile(join(dataDir, fileName), "utf8")) as Remembered;
    return Number.isInteger(backendPort) ? { backendPort } : {};
  } catch {
    return {};
  }
}

export async function remember(dataDir: string, remembered: Remembered): Promise<void> {
  await writeWhole(join(dataDir, fileName), remembered);
}

/** Writes JSON so that a reader sees the old or the new file, never a part; mode 0600. */
export async function writeWhole(file: string, value: unknown): Promise<void> {
  const next = `${file}.${process.pid}.tmp`;
  await writeFile(next, `${JSON.stringify(value, null, 2)}\n`, { mode: 0o600 });
  await rename(next, file);
}
