import base from "../../jest.config.ts";

/**
 * `npm run test:docker`: what needs a Docker Engine and takes minutes, since
 * every test makes and ends containers. One file at a time, all beside one engine.
 */
export default {
  ...base,
  rootDir: new URL("../..", import.meta.url).pathname,
  testMatch: ["<rootDir>/tests/docker/*.test.ts"],
  testPathIgnorePatterns: ["/node_modules/"],
  // Asks for the engine before the first file, and looks at its end for what the files left on it.
  globalSetup: "<rootDir>/tests/docker/global-setup.ts",
  globalTeardown: "<rootDir>/tests/docker/global-teardown.ts",
  testTimeout: 180_000,
  maxWorkers: 1,
};
