/**
 * What CPU profiles of a run say, by whose code it is: a package, a lib, a folder
 * of the control plane. What Node does inside itself counts for whoever called
 * it; where nobody did (a socket became readable), for Node.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

interface Profile {
  nodes: { id: number; callFrame: { functionName: string; url: string }; children?: number[] }[];
  samples: number[];
  timeDeltas: number[];
}

/** Of this checkout, as profiles name it. */
const root = new URL("../../", import.meta.url).href;
/** Left out at the beginning: a start of a process loads and compiles. */
const startMs = 10_000;
/** Shares below it are not shown. */
const leastShare = 0.01;

/** Of each profile in the folder: shares of the time in which the process was not idle, largest first. */
export async function profilesOf(folder: string): Promise<string> {
  const files = (await readdir(folder)).filter((name) => name.endsWith(".cpuprofile")).toSorted();
  const tables = await Promise.all(
    files.map(async (name) => {
      const shares = sharesOf(JSON.parse(await readFile(join(folder, name), "utf8")) as Profile);
      const rows = shares
        .filter(({ share }) => share >= leastShare)
        .map(({ whose, share }) => `  ${(share * 100).toFixed(1).padStart(5)} %  ${whose}`);
      return [name, ...rows].join("\n");
    }),
  );
  return tables.join("\n\n");
}

export function sharesOf({ nodes, samples, timeDeltas }: Profile): { whose: string; share: number }[] {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const whose = new Map<number, string>();
  const name = (id: number, above: string): void => {
    const node = byId.get(id);
    if (node === undefined) return;
    const own = ownerOf(node.callFrame) ?? above;
    whose.set(id, own);
    for (const child of node.children ?? []) name(child, own);
  };
  const [root] = nodes;
  if (root !== undefined) name(root.id, "node");
  const sums = new Map<string, number>();
  let passedMs = 0;
  for (const [index, id] of samples.entries()) {
    passedMs += (timeDeltas[index] ?? 0) / 1000;
    if (passedMs < startMs) continue;
    const owner = whose.get(id) ?? "node";
    if (owner !== "(idle)") sums.set(owner, (sums.get(owner) ?? 0) + (timeDeltas[index] ?? 0));
  }
  const all = [...sums.values()].reduce((a, b) => a + b, 0);
  return [...sums].map(([owner, sum]) => ({ whose: owner, share: sum / all })).toSorted((a, b) => b.share - a.share);
}

/** Undefined: whoever called it. */
function ownerOf({ functionName, url }: { functionName: string; url: string }): string | undefined {
  if (functionName.startsWith("(") && functionName !== "(root)" && functionName !== "(anonymous)") return functionName;
  const npm = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)?.[1];
  if (npm !== undefined) return npm;
  if (!url.startsWith(root)) return undefined;
  return /^(?:(?:libs|agents)\/[^/]+(?:\/src\/wire(?=\/))?|services\/control-plane\/src\/[^/]+|bench\/[^/]+)/.exec(
    url.slice(root.length),
  )?.[0];
}
