/**
 * The local agent's program: the core, the local runtime, and the data planes
 * that it can run. All of it is loaded after the cache of compiled code is in place.
 */
import { keepCompiledCode } from "@bowline/start";

keepCompiledCode();
const [{ runProgram }, { embedded }, { createLocalRuntime }] = await Promise.all([
  import("@bowline/agent-core"),
  import("@bowline/dataplane-embedded"),
  import("./index.ts"),
]);
await runProgram({
  dataPlanes: [embedded],
  createRuntime: ({ config, log, openSecret }) =>
    createLocalRuntime({ dataDir: config.dataDir, log, hostEnvironment: config.hostEnvironment, openSecret }),
});
