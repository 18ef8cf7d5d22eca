/** Names that are unique in their scope. */
import { problem } from "@bowline/kernel";
import { uniqueViolation } from "../../platform/problems.ts";

/** Throws INVALID_ARGUMENT where a name is empty; its spelling is the proto's rule. */
export function requireName(name: string, field: string): void {
  if (name !== "") return;
  const description = "A name is required.";
  throw problem("INVALID_ARGUMENT", `${field}: ${description}`, { violations: [{ field, description }] });
}

/** Runs what writes a row with this name; ALREADY_EXISTS where the name is taken. */
export async function naming<T>(noun: string, name: string, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    if (uniqueViolation(error)?.endsWith("_name_key") === true)
      throw problem("ALREADY_EXISTS", `There is another ${noun} named ${name}.`, { cause: error });
    throw error;
  }
}

/** Two that meet are enough; more would hide a defect. */
const attempts = 3;

/** Repeats a transaction that lost a race for a unique row; it then finds the winner's. */
export async function repeated<T>(constraint: string, body: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await body();
    } catch (error) {
      if (uniqueViolation(error) !== constraint || attempt === attempts) throw error;
    }
  }
}
