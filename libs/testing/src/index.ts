/**
 * What tests stand on: real Postgres and Redis, real processes, a scripted
 * agent and server, a proxy that misbehaves. What is started here ends with the
 * test (or the file) that started it.
 *
 *   postgres.ts   a migrated database per file     endings.ts  how things end
 *   redis.ts      an empty Redis per caller        redis-modes.ts  Sentinel and Cluster
 *   embedded-postgres.ts  the supervisor under test    postgres-pair.ts  a primary with a standby
 *   docker.ts     a Docker Engine per run          engine-server.ts  how it is started and ended
 *   registry.ts   an image registry on loopback
 *   processes.ts  servers, agents, the CLI         leaks.ts    what a file may not leave
 *   terminal.ts   one of these at a terminal
 *   until.ts      waiting for conditions           folders.ts, ports.ts
 *   server.ts     a control plane as a process, or several  operator.ts  its first steps over the API
 *   tcp-proxy.ts  a proxy that cuts, holds, delays; tcp-pipe.ts     balancer.ts  a load balancer before replicas
 *   fleet-agent.ts  a scripted agent that keeps itself going
 *   fleet/  simulated agents by the thousand (`@bowline/testing/fleet`); `npm run fleet` is a program around them
 *   scripted-agent.ts  an agent that says what the test says (the mock agent); scripted-session.ts, raw-stream.ts
 *   nginx.ts, reverse-proxies.ts  what breaks streams: HTTP/1.1 only, or buffering
 *   scripted-poll.ts  the same without a stream, over REST
 *   scripted-server.ts  a server that says what the test says, for agents' tests
 *   certificates.ts  a CA and what it signs      http-proxy.ts  a CONNECT proxy
 *   alone.ts      all of this outside of jest
 *   jest/         environment, setup and teardown of the run
 */
export {
  certificateAuthority,
  certificates,
  type Certificate,
  type CertificateAuthority,
  type IssueOptions,
} from "./certificates.ts";
export { testSettings, type TestSettings } from "./config.ts";
export { endingAfter, outsideJest } from "./alone.ts";
export { findProgram, type FoundProgram, type WantedProgram } from "./debian-programs.ts";
export { ownDocker, type OwnDocker, testDocker, type TestDocker } from "./docker.ts";
export { atEnd, type Ending, endingsKey } from "./endings.ts";
export {
  postgresRefusal,
  query,
  startEmbeddedPostgres,
  startPostgresServer,
  type PostgresServer,
} from "./embedded-postgres.ts";
export { removeFolder, temporaryFolder } from "./folders.ts";
export { startHttpProxy, type HttpProxy, type HttpProxyOptions } from "./http-proxy.ts";
export { childrenOf, findLeaks, takeSnapshot } from "./leaks.ts";
export { freePort } from "./ports.ts";
export { type PostgresPair, startPostgresPair } from "./postgres-pair.ts";
export { databaseAt, testDatabase, type TestDatabase } from "./postgres.ts";
export {
  isPaused,
  isRunning,
  runProcess,
  startProcess,
  type ProcessEnd,
  type ProcessOptions,
  type RunningProcess,
} from "./processes.ts";
export { askRedis, testRedis, type TestRedis } from "./redis.ts";
export {
  registryHeaders,
  testRegistry,
  type Pushed,
  type RegistryUsers,
  type TestRegistry,
  type TestRegistryOptions,
} from "./registry.ts";
export { findRedisServer } from "./redis-server.ts";
export { type RedisNode, startRedisCluster, startRedisSentinel } from "./redis-modes.ts";
export { openRawStream, type RawStream } from "./raw-stream.ts";
export { startNginx, type Nginx, type NginxOptions } from "./nginx.ts";
export { startBufferingProxy, startHttp1Proxy, type ReverseProxy } from "./reverse-proxies.ts";
export type { Operator, PublishOptions } from "./operator.ts";
export { enrolScriptedAgent, type ConnectOptions, type EnrolOptions, type ScriptedAgent } from "./scripted-agent.ts";
export { scriptedResult, type Outcome, type ScriptedEnd, type ScriptedSession } from "./scripted-session.ts";
export { askRest, openPoll, type RestAnswer, type ScriptedPoll } from "./scripted-poll.ts";
export { startScriptedServer, type ScriptedServer, type ServedSession, type Ways } from "./scripted-server.ts";
export { startBalancer, type Balancer } from "./balancer.ts";
export { startFleetAgent, type FleetAgent, type FleetOptions } from "./fleet-agent.ts";
export { startReplicas, startServer, type ServerOptions, type TestServer } from "./server.ts";
export {
  databaseProxy,
  startTcpProxy,
  type Caught,
  type Direction,
  type TcpProxy,
  type Trap,
  type TrapStep,
} from "./tcp-proxy.ts";
export { startTerminal, type Terminal } from "./terminal.ts";
export { until } from "./until.ts";
