/** Secrets of a spec in clear text: opened when they are needed, and only in memory. */
import { invalid, unsupported } from "./refusal.ts";

/** Opens what is sealed to this agent. Rejects where it is not. */
export type OpenSecret = (sealed: string) => Promise<Uint8Array>;

/** Values by name. */
export type Opened = Readonly<Record<string, Uint8Array>>;

/** Throws a refusal where the agent opens none, or where one is not sealed to it. */
export async function openAll(
  openSecret: OpenSecret | undefined,
  sealed: Readonly<Record<string, string>>,
  names: readonly string[],
): Promise<Opened> {
  const opened: Record<string, Uint8Array> = {};
  for (const name of names) {
    if (openSecret === undefined) throw unsupported("this agent cannot open secrets");
    try {
      opened[name] = await openSecret(sealed[name] ?? "");
    } catch {
      throw invalid(`the secret ${name} is not sealed to this agent`); // why is nobody's business
    }
  }
  return opened;
}

/** As a variable has it. */
export function secretText(opened: Opened, name: string): string {
  return new TextDecoder().decode(opened[name]);
}
