import type { Config } from "jest";

/**
 * Files beside their code that take the better part of a minute and more, since every test of theirs kills, starts a
 * proxy, or makes a database cluster: they run with `npm run test:faults`.
 */
export const longRunning: readonly string[] = [
  "<rootDir>/libs/db/src/backup/backup.test.ts",
  "<rootDir>/libs/db/src/embedded/embedded.test.ts",
  "<rootDir>/libs/db/src/embedded/refusals.test.ts",
  "<rootDir>/tests/conformance/dataplanes/embedded.test.ts",
  "<rootDir>/tests/conformance/runtimes/local.test.ts",
];

/**
 * Tests run as ES modules (see `npm run jest`). Three workers also on two cores:
 * suites start servers, agents and databases of their own, and wait for them.
 */
const config: Config = {
  // Ends what a test started, and fails a file that leaves something behind.
  testEnvironment: "<rootDir>/libs/testing/src/jest/environment.ts",
  // One PostgreSQL for all files, started when the first one asks for a database.
  globalSetup: "<rootDir>/libs/testing/src/jest/global-setup.ts",
  globalTeardown: "<rootDir>/libs/testing/src/jest/global-teardown.ts",
  extensionsToTreatAsEsm: [".ts"],
  testMatch: ["<rootDir>/{libs,services,agents,tests,scripts,bench}/**/*.test.ts"],
  // Commands of their own: npm run test:faults (but for its history checker), and npm run test:docker.
  testPathIgnorePatterns: [
    "/node_modules/",
    "<rootDir>/services/console/",
    "<rootDir>/tests/faults/[^/]+$",
    "<rootDir>/tests/docker/",
    ...longRunning,
  ],
  modulePathIgnorePatterns: ["<rootDir>/.cache/"],
  transform: {
    "\\.ts$": [
      "@swc/jest",
      {
        jsc: {
          parser: { syntax: "typescript" },
          target: "es2024",
          experimental: { keepImportAttributes: true }, // `with { type: "json" }`
        },
        module: { type: "es6" },
        sourceMaps: "inline",
      },
    ],
  },
  cacheDirectory: "<rootDir>/.cache/jest",
  // Suites with real processes need more than jest's 5 s: some start two servers and agents, on two busy cores.
  testTimeout: 120_000,
  maxWorkers: 3,
  testSequencer: "<rootDir>/libs/testing/src/jest/sequencer.ts",
};

export default config;
