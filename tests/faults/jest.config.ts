import base, { longRunning } from "../../jest.config.ts";

/**
 * What takes longer than `npm test` may: replicas that are paused, stores that
 * go away, fleets. One file at a time, since each keeps both cores busy.
 */
export default {
  ...base,
  rootDir: new URL("../..", import.meta.url).pathname,
  testMatch: ["<rootDir>/tests/faults/*.test.ts", ...longRunning],
  testPathIgnorePatterns: ["/node_modules/"],
  testTimeout: 240_000,
  maxWorkers: 1,
};
