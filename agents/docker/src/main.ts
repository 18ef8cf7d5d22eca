/**
 * The Docker agent's program: the core and the Docker runtime. All of it is
 * loaded after the cache of compiled code is in place.
 */
import { keepCompiledCode } from "@bowline/start";

keepCompiledCode();
const [{ runProgram }, { createDockerRuntime, engineAddress }] = await Promise.all([
  import("@bowline/agent-core"),
  import("./index.ts"),
]);
await runProgram({
  dataPlanes: [],
  createRuntime: async ({ config, log, openSecret }) =>
    await createDockerRuntime({
      dataDir: config.dataDir,
      engine: engineAddress(config.docker),
      allowHostPaths: config.allowHostPaths,
      installation: config.server,
      log,
      openSecret,
    }),
});
