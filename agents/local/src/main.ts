/** The local agent's program: the core, the local runtime, and the data planes that it can run. */
import { runProgram } from "@bowline/agent-core";
import { embedded } from "@bowline/dataplane-embedded";
import { createLocalRuntime } from "./index.ts";

await runProgram({
  dataPlanes: [embedded],
  createRuntime: ({ config, log, openSecret }) =>
    createLocalRuntime({ dataDir: config.dataDir, log, hostEnvironment: config.hostEnvironment, openSecret }),
});
