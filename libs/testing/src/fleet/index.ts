/**
 * Simulated agents by the thousand: the real protocol, no runtime. agent.ts has
 * the map. `npm run fleet` (bench/fleet) is this as a program.
 */
export { type SimulatedAgent, startSimulatedAgent } from "./agent.ts";
export type { AgentNotes, AgentPhase } from "./ports.ts";
export { type Fleet, type FleetSettings, startFleet } from "./fleet.ts";
export { type Account, createLedger, type Ledger, type LedgerTotals } from "./ledger.ts";
export { misbehaviours, type Misbehaviour, type MisbehaviourReport } from "./misbehave.ts";
export { seededRandom } from "./random.ts";
export { createTimes, type Times, type TimesSummary } from "./times.ts";
export { createWheel, type Wheel } from "./wheel.ts";
