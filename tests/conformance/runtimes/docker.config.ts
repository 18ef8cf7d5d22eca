import base from "../../../jest.config.ts";

/**
 * `npm run test:docker`: what needs a Docker Engine and takes minutes, since
 * each of ninety tests makes and ends containers. One file at a time.
 */
export default {
  ...base,
  rootDir: new URL("../../..", import.meta.url).pathname,
  testMatch: ["<rootDir>/tests/conformance/runtimes/docker.test.ts", "<rootDir>/tests/e2e/docker-agent.test.ts"],
  testPathIgnorePatterns: ["/node_modules/"],
  testTimeout: 120_000,
  maxWorkers: 1,
};
