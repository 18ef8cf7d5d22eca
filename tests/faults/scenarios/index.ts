/** All scenarios, by number. */
import type { Scenario } from "../scenario.ts";
import { serverBeforeCommit } from "./01-server-before-commit.ts";
import { serverAfterCommit } from "./02-server-after-commit.ts";
import { serverAfterClaim } from "./03-server-after-claim.ts";
import { halfOpen } from "./04-half-open.ts";
import { agentBeforeJournal } from "./05-agent-before-journal.ts";
import { agentBeforeEffect } from "./06-agent-before-effect.ts";
import { agentAfterEffect } from "./07-agent-after-effect.ts";
import { acknowledgementLost } from "./08-acknowledgement-lost.ts";
import { pushedFiveTimes } from "./09-pushed-five-times.ts";
import { lateResult } from "./10-late-result.ts";
import { twoSessions } from "./11-two-sessions.ts";
import { pausedReplica } from "./12-paused-replica.ts";
import { partition } from "./13-partition.ts";
import { idleStreams } from "./14-idle-streams.ts";
import { redisStopped } from "./15-redis-stopped.ts";
import { redisFlapping } from "./16-redis-flapping.ts";
import { redisSlow } from "./17-redis-slow.ts";
import { postgresRestarted } from "./18-postgres-restarted.ts";
import { synchronousFailover } from "./19-synchronous-failover.ts";
import { tailLost } from "./20-tail-lost.ts";
import { backendsTerminated } from "./21-backends-terminated.ts";
import { clocks } from "./22-clocks.ts";
import { cancelRaces } from "./23-cancel-races.ts";
import { twoSweepers } from "./24-two-sweepers.ts";
import { killsItsAgent } from "./25-kills-its-agent.ts";
import { openTransaction } from "./26-open-transaction.ts";
import { diskFull } from "./27-disk-full.ts";
import { rollingRestart } from "./28-rolling-restart.ts";
import { journalLost } from "./29-journal-lost.ts";
import { cloned } from "./30-cloned.ts";
import { restored } from "./31-restored.ts";
import { commitAnswerLost } from "./32-commit-answer-lost.ts";
import { wrongOwner } from "./33-wrong-owner.ts";
import { newerGeneration } from "./34-newer-generation.ts";
import { hostDies } from "./35-host-dies.ts";
import { postgresLongAway } from "./36-postgres-long-away.ts";

export const scenarios: readonly Scenario[] = [
  serverBeforeCommit,
  serverAfterCommit,
  serverAfterClaim,
  halfOpen,
  agentBeforeJournal,
  agentBeforeEffect,
  agentAfterEffect,
  acknowledgementLost,
  pushedFiveTimes,
  lateResult,
  twoSessions,
  pausedReplica,
  partition,
  idleStreams,
  redisStopped,
  redisFlapping,
  redisSlow,
  postgresRestarted,
  synchronousFailover,
  tailLost,
  backendsTerminated,
  clocks,
  cancelRaces,
  twoSweepers,
  killsItsAgent,
  openTransaction,
  diskFull,
  rollingRestart,
  journalLost,
  cloned,
  restored,
  commitAnswerLost,
  wrongOwner,
  newerGeneration,
  hostDies,
  postgresLongAway,
];
