import base from "./jest.config.ts";

/**
 * The short form, for CI: without the files that mostly wait, and whose decisions other tests make sure of with the
 * time shifted. Each names where.
 */
const waiting: readonly string[] = [
  "<rootDir>/tests/faults/fleet-program.test.ts", // bench/fleet, fleet.test.ts
  "<rootDir>/tests/faults/hosts-away.test.ts", // services/control-plane/src/stacks/owed.test.ts
  "<rootDir>/tests/faults/polling-agent.test.ts", // tests/e2e/polling*.test.ts, tunnels-polled.test.ts
];

export default { ...base, testPathIgnorePatterns: [...base.testPathIgnorePatterns, ...waiting] };
