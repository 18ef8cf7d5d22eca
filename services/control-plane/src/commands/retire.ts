/**
 * What a host owes that is gone for good: ended in the books, because nobody is
 * left who could carry it out or say how it ended.
 *
 * D1: after this nothing of the agent is open, and nothing of it counts as
 *     present: an absent deployment takes no further wish.
 */
import { lockPresent, settleAbsent } from "../deployments/index.ts";
import type { Work } from "../platform/transactions.ts";
import type { EnginePorts } from "./ports.ts";
import { agentGone } from "./reconcile.ts";

/** How much was settled. */
export interface Settled {
  /** Commands that were open. */
  commands: number;
  /** Deployments that were not known to be gone. */
  deployments: number;
}

/**
 * Settles everything that an agent has open or present. The caller holds the cluster's row, so that nothing new is
 * placed there meanwhile, and has ended the session.
 */
export async function retireAgent(ports: EnginePorts, work: Work, agentId: string): Promise<Settled> {
  const present = await lockPresent(work.tx, agentId); // E3: before their commands
  const commands = await agentGone(ports, work, agentId, { retired: true });
  await settleAbsent(work.tx, present);
  for (const owner of new Set(ports.owners.values())) await owner.retired?.(work, agentId);
  return { commands, deployments: present.length };
}
