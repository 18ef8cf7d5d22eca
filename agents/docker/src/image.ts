/** The entry of the agent's image (deploy/images): the program of main.ts, as root no longer than it has to be (rights.ts). */
import { become, otherUser } from "./rights.ts";

const [command, ...rest] = process.argv.slice(2);
// Asked every few seconds: without all that an agent is made of, and it reads one file.
if (command === "health") process.exit(await (await import("@bowline/agent-core/health")).runHealth(rest));
if (process.getuid?.() === 0) await giveUpRoot();
await import("./main.ts");

async function giveUpRoot(): Promise<void> {
  const { readPlaces } = await import("@bowline/agent-core");
  const places = readPlaces(process.argv.slice(2));
  try {
    const other = otherUser(places);
    if (other !== undefined) become(other, places.dataDir);
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    process.stderr.write(
      `bowline agent: RIGHTS: cannot give up root: ${why}. Leave it CHOWN, SETGID and SETUID, or start it as another user.\n`,
    );
    process.exit(1);
  }
}
