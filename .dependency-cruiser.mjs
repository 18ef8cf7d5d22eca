/**
 * Who may import whom, as path rules: npm links every workspace at the root,
 * so neither Node nor tsc notices an import that package.json does not declare.
 * tests/toolchain/imports.test.ts plants a violation of each rule.
 *
 * The packages: libs/NAME, services/NAME, agents/NAME, agents/dataplanes/NAME.
 * The slices: folders of services/control-plane/src.
 */
const test = "\\.test\\.ts$";
const testFolders = "^(tests|bench)/";
const slices = "^services/control-plane/src/";
const aPackage = "^((?:libs|services)/[^/]+|agents/(?:dataplanes/)?(?!dataplanes/)[^/]+)/";
const npm = "(^|/)node_modules/";

/** @type {import("dependency-cruiser").IConfiguration} */
export default {
  forbidden: [
    {
      name: "kernel-imports-nothing",
      comment: "libs/kernel runs everywhere, in a browser too: no package, no node: module.",
      severity: "error",
      from: { path: "^libs/kernel/", pathNot: test },
      to: { pathNot: "^libs/kernel/" },
    },
    {
      name: "contract-imports-protobuf-only",
      comment: "libs/contract is what every client uses: @bufbuild/protobuf and its validation.",
      severity: "error",
      from: { path: "^libs/contract/src/", pathNot: test },
      to: { pathNot: ["^libs/contract/", `${npm}@bufbuild/(protobuf|protovalidate)/`] },
    },
    {
      name: "libs-import-kernel-and-contract",
      comment: "A lib may use kernel and contract, and no other lib.",
      severity: "error",
      from: { path: "^libs/([^/]+)/", pathNot: [test, "^libs/testing/"] },
      to: { path: "^libs/", pathNot: ["^libs/$1/", "^libs/(kernel|contract)/"] },
    },
    {
      name: "compose-reads-nothing",
      comment: "libs/compose gets all text from its caller: YAML, the schema's validator, kernel, no node: module.",
      severity: "error",
      from: { path: "^libs/compose/", pathNot: test },
      to: { pathNot: ["^libs/(compose|kernel)/", `${npm}(yaml|@cfworker/json-schema)/`] },
    },
    {
      name: "libs-import-no-deployable",
      comment: "A lib knows no service and no agent; libs/testing starts them by path.",
      severity: "error",
      from: { path: "^libs/", pathNot: test },
      to: { path: "^(services|agents|tests|bench)/" },
    },
    {
      name: "testing-is-for-tests",
      comment: "What ships does not carry what tests stand on.",
      severity: "error",
      from: { pathNot: [test, testFolders, "^libs/testing/", "^jest\\."] },
      to: { path: "^libs/testing/" },
    },
    {
      name: "slices-meet-at-front-doors",
      comment: "A slice uses its own files, platform/, another slice's index.ts, and libs. Only compose.ts wires.",
      severity: "error",
      from: { path: `${slices}([^/]+)/`, pathNot: `${slices}platform/` },
      to: { path: slices, pathNot: [`${slices}$1/`, `${slices}platform/`, `${slices}[^/]+/index\\.ts$`] },
    },
    {
      name: "platform-knows-no-slice",
      comment: "platform/ is what every slice uses.",
      severity: "error",
      from: { path: `${slices}platform/` },
      to: { path: slices, pathNot: `${slices}platform/` },
    },
    {
      name: "slices-have-no-circles",
      comment:
        "If two slices need each other, the one that consumes declares an interface, and compose.ts hands it over.",
      severity: "error",
      scope: "folder",
      from: { path: `${slices}[^/]+$` },
      to: { circular: true },
    },
    {
      name: "no-circles",
      comment: "Modules that import each other have no order in which they can be read or loaded.",
      severity: "error",
      from: { pathNot: "/gen/" },
      to: { circular: true },
    },
    {
      name: "services-import-no-deployable",
      comment: "A deployable starts another by path; it does not import it.",
      severity: "error",
      from: { path: "^services/([^/]+)/", pathNot: test },
      to: { path: "^(services|agents|tests|bench)/", pathNot: "^services/$1/" },
    },
    {
      name: "clients-import-contract-and-kernel",
      comment:
        "cli, console and dev speak the contract only; the CLI dials as agents do, and checks Compose files. start is for their main.ts.",
      severity: "error",
      from: { path: "^services/(cli|console|dev)/", pathNot: test },
      to: { path: "^libs/", pathNot: "^libs/(contract|kernel|dial|start|compose)/" },
    },
    {
      name: "agents-import-no-service",
      comment: "Agents run in other people's networks and do not carry the server's code.",
      severity: "error",
      from: { path: "^agents/", pathNot: test },
      to: { path: ["^(services|tests|bench)/", `${npm}(pg|kysely|ioredis)/`] },
    },
    {
      name: "agent-core-imports",
      comment: "agents/core: kernel, contract, session, auth, dial, traces. It knows no runtime and no data plane.",
      severity: "error",
      from: { path: "^agents/core/", pathNot: test },
      to: { path: "^(libs|agents)/", pathNot: ["^agents/core/", "^libs/(kernel|contract|session|auth|dial|traces)/"] },
    },
    {
      name: "runtimes-know-no-sibling",
      comment: "A runtime: core, kernel, contract, its own SDK. Its main.ts also the data planes.",
      severity: "error",
      from: { path: "^agents/(?!core/|dataplanes/)([^/]+)/", pathNot: [test, "/src/main\\.ts$"] },
      to: { path: "^(libs|agents)/", pathNot: ["^agents/$1/", "^agents/core/", "^libs/(kernel|contract)/"] },
    },
    {
      name: "runtime-main-adds-dataplanes",
      comment: "A runtime's main.ts wires core, its runtime and the data planes, and no other runtime.",
      severity: "error",
      from: { path: "^agents/(?!core/|dataplanes/)([^/]+)/src/main\\.ts$" },
      to: {
        path: "^(libs|agents)/",
        pathNot: ["^agents/$1/", "^agents/(core|dataplanes)/", "^libs/(kernel|contract|start)/"],
      },
    },
    {
      name: "dataplanes-know-no-sibling",
      comment: "A data plane: core, kernel, contract, its own SDK. start is for its main.ts.",
      severity: "error",
      from: { path: "^agents/dataplanes/([^/]+)/", pathNot: test },
      to: {
        path: "^(libs|agents)/",
        pathNot: ["^agents/dataplanes/$1/", "^agents/core/", "^libs/(kernel|contract|start)/"],
      },
    },
    {
      name: "tests-use-front-doors",
      comment: "tests/ and bench/: any lib, a slice's or a runtime's index.ts.",
      severity: "error",
      from: { path: testFolders, pathNot: "^bench/peers/" },
      to: { path: "^(services|agents)/", pathNot: "/index\\.ts$" },
    },
    {
      name: "peers-stand-on-the-platform",
      comment:
        "bench/peers/ has others' queues in the place of our slices, on what slices stand on: platform/ and the log.",
      severity: "error",
      from: { path: "^bench/peers/" },
      to: { path: "^(services|agents)/", pathNot: [`${slices}platform/`, `${slices}log\\.ts$`] },
    },
    {
      name: "tests-beside-use-front-doors",
      comment: "A test beside the code: its own package, any lib, another package's index.ts.",
      severity: "error",
      from: { path: `${aPackage}.*${test}` },
      to: { path: "^(services|agents)/", pathNot: ["^$1/", "/index\\.ts$"] },
    },
    {
      name: "packages-by-name",
      comment: "Another package is imported as @bowline/NAME, not by a path through its wall.",
      severity: "error",
      from: { path: aPackage },
      to: { path: "^(libs|services|agents)/", pathNot: "^$1/", dependencyTypes: ["local"] },
    },
    {
      name: "dependencies-are-declared",
      comment: "What ships declares every package that it imports, in its own package.json.",
      severity: "error",
      from: { path: aPackage, pathNot: [test, "/scripts/", "^libs/testing/"] },
      to: { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"] },
    },
    {
      name: "imports-resolve",
      comment: "A rule can't see where an import leads that leads nowhere.",
      severity: "error",
      from: {},
      to: { couldNotResolve: true },
    },
  ],
  options: {
    // TypeScript 7 has no compiler API; without this, modules and edges are missing in silence.
    parser: "swc",
    doNotFollow: { path: "node_modules" },
    exclude: { path: "^services/console/dist/" },
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "node", "default", "types"],
      extensions: [".ts", ".tsx", ".js", ".mjs", ".json", ".d.ts"],
    },
    skipAnalysisNotInRules: false,
  },
};
