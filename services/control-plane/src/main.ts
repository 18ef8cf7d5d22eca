/** The entry of `bowline server`: program.ts. Everything else is loaded after the cache of compiled code is in place. */
import { keepCompiledCode } from "@bowline/start";

keepCompiledCode();
const [command, ...rest] = process.argv.slice(2);
// A container's health check asks every few seconds: without all that a server is made of.
if (command === "health" && !rest.includes("--help"))
  process.exitCode = await (await import("./health.ts")).health(rest);
else await import("./program.ts");
