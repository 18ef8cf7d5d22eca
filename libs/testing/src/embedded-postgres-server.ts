/**
 * A process that holds an embedded PostgreSQL, for tests that kill it:
 * `node embedded-postgres-server.ts <dataDir> [options as JSON]`. Prints one line of JSON, the
 * started PostgreSQL or why there is none, and stops on SIGTERM.
 */
import { EmbeddedPostgresError, runEmbeddedPostgres } from "@bowline/db";

const [dataDir = "", options = "{}"] = process.argv.slice(2);
const say = (fields: object, message: string) => console.error(message, JSON.stringify(fields));

try {
  const postgres = await runEmbeddedPostgres({
    dataDir,
    log: { info: say, warn: say, error: say },
    ...(JSON.parse(options) as object),
  });
  process.once("SIGTERM", () => void postgres.stop());
  console.log(JSON.stringify({ pid: postgres.pid(), created: postgres.created, connection: postgres.connection }));
  console.log(JSON.stringify(await postgres.ended));
} catch (error) {
  if (!(error instanceof EmbeddedPostgresError)) throw error;
  console.log(JSON.stringify({ reason: error.reason, message: error.message }));
}
