/**
 * What ended commands cost those who read every second: the statements of a
 * claim, a sweep, a list and a watch's snapshot with 200,000 ended commands
 * beside the open ones, before and after upkeep has moved them. PostgreSQL's
 * own times and buffers (EXPLAIN ANALYZE), medians of seven rounds, and their
 * ratio, which carries over to other machines better than times do.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { openDatabase, migrate, runEmbeddedPostgres, type Database } from "@bowline/db";
import { startProcess, until } from "@bowline/testing";
import { type Kysely, sql } from "kysely";

/** Of 1,000 deployments at 100 agents: each has been converged 201 times, and one command more is open. */
const endedCommands = 200_000;
const deployments = 1_000;
const agents = 100;
const rounds = 7;
const movedWithinMs = 300_000;

const open = `('BLOCKED', 'READY', 'ASSIGNED', 'RUNNING', 'CANCELLING', 'RETRY_WAIT')`;
const shown = `c.id, c.agent_id, c.generation, s.state, s.reason`;
/** As the server says them, with values of this data set. */
const statements: Record<string, string> = {
  "claim for 20 agents": `SELECT fit.command_id FROM unnest(ARRAY(SELECT 'agent_' || n FROM generate_series(1, 20) AS n)) AS busy (agent_id)
    CROSS JOIN LATERAL (SELECT r.command_id FROM command_states AS r WHERE r.agent_id = busy.agent_id AND r.state = 'READY'
      ORDER BY r.priority, r.sequence LIMIT 16 FOR UPDATE SKIP LOCKED) AS fit`,
  "commands of a result, locked": `SELECT s.* FROM command_states AS s JOIN commands AS c ON c.id = s.command_id
    WHERE s.command_id IN (SELECT 'open_' || n FROM generate_series(1, 50) AS n) ORDER BY s.command_id FOR UPDATE OF s`,
  "sweep, one page": `SELECT count(*) FROM (SELECT s.* FROM command_states AS s WHERE s.state IN ${open}
    AND s.deployment_id >= '' ORDER BY s.deployment_id LIMIT 2000) AS s JOIN commands AS c ON c.id = s.command_id`,
  "snapshot of a watch": `SELECT ${shown} FROM commands AS c JOIN command_states AS s ON s.command_id = c.id
    WHERE s.state IN ${open} ORDER BY c.created_at, c.id LIMIT 10000`,
  "list of one cluster's open ones": `SELECT ${shown} FROM commands AS c JOIN command_states AS s ON s.command_id = c.id
    WHERE c.cluster_id IN (SELECT id FROM clusters WHERE name = 'small') AND s.state IN ${open} ORDER BY c.id DESC LIMIT 101`,
};
const newest = (from: string): string => `(SELECT ${shown} FROM ${from} ORDER BY c.id DESC LIMIT 101)`;
const hot = "commands AS c JOIN command_states AS s ON s.command_id = c.id";
const left = "ended_commands AS s JOIN LATERAL (SELECT s.*) AS c ON true";
const listStatement = `${newest(hot)} UNION ALL ${newest(left)}`;

interface Cost {
  ms: number;
  buffers: number;
}

export async function history({ json }: { json: boolean }): Promise<void> {
  const dataDir = await mkdtemp(join(tmpdir(), "bowline-bench-"));
  const log = { info: () => {}, warn: () => {}, error: () => {}, debug: () => {} };
  const postgres = await runEmbeddedPostgres({ dataDir: join(dataDir, "postgres"), log, maxConnections: 10 });
  const database = openDatabase({
    address: postgres.connection,
    applicationName: "bench",
    statementTimeoutMs: 600_000,
  });
  try {
    const { db } = database;
    await migrate(db);
    await seed(db);
    const before = { costs: await measure(db), megabytes: await megabytes(db) };
    const { host, port, user, database: name } = postgres.connection;
    const url = `postgres://${user}@localhost:${port}/${name}?host=${encodeURIComponent(host)}`;
    const movedMs = await move(db, url, join(dataDir, "server"));
    const after = { costs: await measure(db), megabytes: await megabytes(db) };
    report(json, { before, after, movedMs });
  } finally {
    await database.end();
    await postgres.stop();
    await rm(dataDir, { recursive: true, force: true });
  }
}

async function seed(db: Kysely<Database>): Promise<void> {
  const statements = [
    `INSERT INTO clusters (id, name, runtime) SELECT 'cluster_' || n, n, 'local' FROM unnest(ARRAY['large', 'small']) AS n`,
    `INSERT INTO agents (id, cluster_id, name, runtime, runtime_identity, signing_key, signing_thumbprint, sealing_key)
      SELECT 'agent_' || n, 'cluster_' || CASE n WHEN 1 THEN 'small' ELSE 'large' END, 'agent' || n, 'local', 'm', '{}', n::text, '{}'
      FROM generate_series(1, ${agents}) AS n`,
    `INSERT INTO deployments (id, agent_id, cluster_id, kind, owner_id, desired, generation)
      SELECT 'deployment_' || n, a.id, a.cluster_id, 'routes', 'o', 'RUNNING', ${endedCommands / deployments} + 1
      FROM generate_series(1, ${deployments}) AS n JOIN agents AS a ON a.id = 'agent_' || (n % ${agents} + 1)`,
    ...[true, false].flatMap((ended) => [
      `INSERT INTO commands (id, deployment_id, agent_id, cluster_id, generation, digest, owner_kind, owner_id, is_removal,
          reduces, max_retries, run_timeout_ms, grace_ms, cancel_limit_ms, offline_life_ms, created_by, created_at)
        SELECT ${ended ? "'ended_' || lpad(n::text, 7, '0')" : "'open_' || n"}, d.id, d.agent_id, d.cluster_id,
          ${ended ? `n / ${deployments} + 1` : "d.generation"}, repeat('0', 64), 'routes', 'o', false, false, 3, 300000, 30000, 60000,
          86400000, 'bench', now() - make_interval(secs => ${ended ? "7200 + n" : "60"})
        FROM generate_series(0, ${ended ? endedCommands - 1 : deployments - 1}) AS n
        JOIN deployments AS d ON d.id = 'deployment_' || (n % ${deployments} + 1)`,
      `INSERT INTO command_states (command_id, agent_id, deployment_id, priority, reduces, state, attempt, ended_at, outcome_attempt)
        SELECT c.id, c.agent_id, c.deployment_id, 5, false, ${ended ? "'SUCCEEDED', 1, c.created_at, 1" : "'READY', 0, NULL, NULL"}
        FROM commands AS c WHERE c.id LIKE '${ended ? "ended" : "open"}%'`,
    ]),
    `VACUUM ANALYZE`,
  ];
  for (const statement of statements) await sql.raw(statement).execute(db);
}

async function measure(db: Kysely<Database>): Promise<Record<string, Cost>> {
  const costs: Record<string, Cost> = {};
  for (const [name, statement] of [...Object.entries(statements), ["list of the newest", listStatement] as const]) {
    const taken: Cost[] = [];
    for (let round = 0; round < rounds; round += 1) taken.push(await explain(db, statement));
    costs[name] = { ms: median(taken.map(({ ms }) => ms)), buffers: median(taken.map(({ buffers }) => buffers)) };
  }
  return costs;
}

async function explain(db: Kysely<Database>, statement: string): Promise<Cost> {
  const { rows } = await sql
    .raw<{ "QUERY PLAN": [{ Plan: Record<string, number>; "Execution Time": number; "Planning Time": number }] }>(
      `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ${statement}`,
    )
    .execute(db);
  const [plan] = rows[0]?.["QUERY PLAN"] ?? [];
  if (plan === undefined) throw new Error("no plan");
  const { "Shared Hit Blocks": hit = 0, "Shared Read Blocks": read = 0 } = plan.Plan;
  return { ms: plan["Execution Time"] + plan["Planning Time"], buffers: hit + read };
}

/**
 * By a server's own upkeep, from its start. Then the tables are written anew, because where upkeep always ran they never
 * were as large: a backlog that leaves at once leaves its pages behind, which later rows fill. Returns how long the
 * server took, its start included.
 */
async function move(db: Kysely<Database>, databaseUrl: string, dataDir: string): Promise<number> {
  const startedAt = performance.now();
  const server = startProcess({
    command: [
      ...["node", join(process.cwd(), "services/control-plane/src/main.ts"), "start", "--port", "0"],
      ...["--data-dir", dataDir, "--log-format", "json", "--history-every-ms", "100"],
    ],
    env: { BOWLINE_DATABASE_URL: databaseUrl },
  });
  try {
    await until(
      async () => {
        const { rows } = await sql<{ left: number }>`SELECT count(*) AS left FROM ended_commands`.execute(db);
        return rows[0]?.left === endedCommands;
      },
      { what: "all to be moved", withinMs: movedWithinMs },
    );
  } finally {
    await server.end();
  }
  const took = performance.now() - startedAt;
  for (const statement of ["VACUUM FULL commands", "VACUUM FULL command_states", "VACUUM ANALYZE"])
    await sql.raw(statement).execute(db);
  return took;
}

/** Of the tables that are read every second, indexes included: what has to stay in memory. */
async function megabytes(db: Kysely<Database>): Promise<number> {
  const { rows } = await sql<{ bytes: number }>`
    SELECT pg_total_relation_size('commands') + pg_total_relation_size('command_states') AS bytes`.execute(db);
  return (rows[0]?.bytes ?? Number.NaN) / 2 ** 20;
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN;

interface State {
  costs: Record<string, Cost>;
  megabytes: number;
}

function report(json: boolean, figures: { before: State; after: State; movedMs: number }): void {
  const { before, after, movedMs } = figures;
  const machine = `${cpus().length} × ${cpus()[0]?.model ?? "?"}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`;
  if (json) return void process.stdout.write(`${JSON.stringify({ machine, rounds, endedCommands, ...figures })}\n`);
  const lines = Object.entries(before.costs).map(([name, cost]) => {
    const { ms, buffers } = after.costs[name] ?? cost;
    const times = `${cost.ms.toFixed(2)} | ${ms.toFixed(2)} | ${(cost.ms / ms).toFixed(1)}`;
    return `| ${name} | ${times} | ${cost.buffers} | ${buffers} | ${(cost.buffers / Math.max(1, buffers)).toFixed(1)} |`;
  });
  process.stdout.write(`${machine}; ${endedCommands} ended commands moved in ${(movedMs / 1000).toFixed(1)} s
commands and command_states: ${before.megabytes.toFixed(0)} MiB before, ${after.megabytes.toFixed(1)} MiB after
| statement | ms before | after | ratio | pages before | after | ratio |
| --- | --- | --- | --- | --- | --- | --- |
${lines.join("\n")}\n`);
}
