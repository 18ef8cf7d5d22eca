/**
 * The agent's real core with a runtime that writes down its effects (ledger.ts).
 * `BOWLINE_FAULTS_HOST`: folder of the host that it runs on, beside its own data folder.
 */
import { runProgram } from "@bowline/agent-core";
import { createEffects, createLedgerDataPlane, createLedgerRuntime } from "./runtime.ts";

const host = process.env["BOWLINE_FAULTS_HOST"] ?? "";
const effects = createEffects(host);

await runProgram({
  dataPlanes: [createLedgerDataPlane(effects)],
  createRuntime: () => Promise.resolve(createLedgerRuntime(host, effects)),
});
