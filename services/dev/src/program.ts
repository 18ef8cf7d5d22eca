/**
 * What `npm start` runs: a server and an agent on this machine, each as a
 * process of its own, and the example, live.
 *
 *   run.ts     the stages and their end     child.ts    programs that never outlive us
 *   server.ts  agent.ts  backend.ts         what is started
 *   example.ts the cluster, gateway, product and publish
 *   checks.ts  before anything starts       ports.ts    who holds a port
 */
import { readOptions } from "./config.ts";
import { run } from "./run.ts";
import { openScreen } from "./screen.ts";

const options = readOptions();
const screen = openScreen(options.colour);
const stop = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(name, () => {
    // Asked twice: our end closes the lifelines, and all of them end by themselves.
    if (stop.signal.aborted) process.exit(130);
    stop.abort();
  });
}
process.exit(await run(options, screen, stop.signal));
