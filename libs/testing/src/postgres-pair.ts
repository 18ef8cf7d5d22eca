/**
 * A PostgreSQL with a streaming standby, and the way to whichever is the primary:
 *
 *     const pair = await startPostgresPair({ synchronous: true });
 *     const server = await startServer({ database: pair.database });   // through the way
 *     await pair.loseTail();           // what is committed from now on does not reach the standby
 *     await pair.failOver();           // the primary is gone, the standby is promoted, the way leads to it
 *
 * Both are the binaries of the embedded one; the base copy is made as pg_basebackup
 * makes it, which those binaries lack.
 */
import { chownSync, readlinkSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { DatabaseAddress } from "@bowline/db";
import { withClient } from "./databases.ts";
import { query, startEmbeddedPostgres } from "./embedded-postgres.ts";
import { atEnd } from "./endings.ts";
import { temporaryFolder } from "./folders.ts";
import { databaseAt, type TestDatabase } from "./postgres.ts";
import { runProcess, startProcess } from "./processes.ts";
import { databaseProxy, startTcpProxy, type TcpProxy } from "./tcp-proxy.ts";
import { until } from "./until.ts";

export interface PostgresPair {
  /** Through the way to the primary; its pool finds the new one after a failover. */
  database: TestDatabase;
  /** Between everybody and the primary. */
  way: TcpProxy;
  /** The standby has all that was committed until now, and hears no more of the primary, which goes on without it. */
  loseTail(): Promise<void>;
  /** Cuts the primary off for good and puts the standby in its place. */
  failOver(): Promise<void>;
}

/** Servers, a test's pool, and who replicates. */
const maxConnections = 60;
/** A base copy of an empty cluster, and its recovery, on a busy machine. */
const streamsWithinMs = 60_000;
/** PostgreSQL refuses to be root; any other number does. */
const ordinaryUser = 1000;
const standbyName = "standby";

export async function startPostgresPair({ synchronous }: { synchronous: boolean }): Promise<PostgresPair> {
  const folder = temporaryFolder();
  const primary = await startEmbeddedPostgres(folder, { maxConnections });
  const { connection } = primary;
  const socketOf = (host: string) => ({ path: join(host, `.s.PGSQL.${connection.port}`) });
  /** The way of the WAL. */
  const stream = await startTcpProxy(socketOf(connection.host));

  await query(connection, `SELECT pg_create_physical_replication_slot('${standbyName}', true)`);
  const copy = join(folder, "standby");
  await copyCluster(connection, join(folder, "data"), copy);
  const conninfo = `host=${stream.host} port=${stream.port} user=${connection.user} application_name=${standbyName}`;
  const settings = [`primary_conninfo = '${conninfo}'`, `primary_slot_name = '${standbyName}'`];
  writeAsOwner(copy, "postgresql.auto.conf", `${settings.join("\n")}\n`);
  writeAsOwner(copy, "standby.signal", "");
  await startStandby(readlinkSync(`/proc/${primary.pid()}/exe`), copy, connection.port);
  await until(
    async () => {
      const rows = await query<{ state: string }>(connection, "SELECT state FROM pg_stat_replication");
      return rows.some(({ state }) => state === "streaming");
    },
    { withinMs: streamsWithinMs, what: "the standby streams" },
  );
  if (synchronous) {
    await query(connection, `ALTER SYSTEM SET synchronous_standby_names = '${standbyName}'`);
    await query(connection, "SELECT pg_reload_conf()");
    await until(
      async () => {
        const rows = await query<{ sync_state: string }>(connection, "SELECT sync_state FROM pg_stat_replication");
        return rows.some(({ sync_state: state }) => state === "sync");
      },
      { withinMs: streamsWithinMs, what: "the standby is synchronous" },
    );
  }

  const way = await databaseProxy({ address: connection });
  return {
    database: databaseAt(way.url),
    way,
    async loseTail() {
      const [now] = await query<{ lsn: string }>(connection, "SELECT pg_current_wal_flush_lsn() AS lsn");
      await until(
        async () => {
          const has = `SELECT pg_last_wal_replay_lsn() >= '${now?.lsn}' AS has`;
          return (await query<{ has: boolean }>({ ...connection, host: copy }, has))[0]?.has;
        },
        { withinMs: streamsWithinMs, what: "the standby has what was committed before" },
      );
      stream.cut();
    },
    async failOver() {
      way.cut();
      stream.cut();
      const standby = { ...connection, host: copy };
      await query(standby, "SELECT pg_promote(true, 60)");
      await primary.stop();
      way.redirect(socketOf(copy));
      way.mend();
    },
  };
}

/** As pg_basebackup does it: the label that the end of the backup returns goes into the copy. */
async function copyCluster(connection: DatabaseAddress, from: string, to: string): Promise<void> {
  await withClient(connection, async (client) => {
    await client.query("SELECT pg_backup_start('standby', true)");
    const { code, output } = await runProcess({ command: ["cp", "-a", from, to] }); // with their owner
    // What goes away while it is copied is put right by the WAL.
    if (code !== 0 && !/No such file|replaced while being copied/.test(output)) throw new Error(output);
    const { rows } = await client.query<{ labelfile: string }>("SELECT labelfile FROM pg_backup_stop(false)");
    for (const own of ["postmaster.pid", "postmaster.opts"]) rmSync(join(to, own), { force: true });
    writeAsOwner(to, "backup_label", rows[0]?.labelfile ?? "");
  });
}

/** PostgreSQL reads only what it may, and removes what it has used. */
function writeAsOwner(folder: string, name: string, text: string): void {
  const { uid, gid } = statSync(folder);
  const file = join(folder, name);
  writeFileSync(file, text, { mode: 0o600 });
  chownSync(file, uid, gid);
}

async function startStandby(program: string, folder: string, port: number): Promise<void> {
  const { uid, gid } = statSync(folder);
  const asOwner =
    uid === 0 // The embedded one runs in a user namespace, so that root's files stay root's; so does this one.
      ? ["unshare", "--user", `--map-user=${ordinaryUser}`, `--map-group=${ordinaryUser}`]
      : process.getuid?.() === uid
        ? []
        : ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups"];
  const values = {
    ...{ listen_addresses: "", port, unix_socket_directories: folder, unix_socket_permissions: "0700" },
    // None of these may be below the primary's.
    ...{ max_connections: maxConnections, max_wal_senders: 3, max_worker_processes: 2 },
    ...{ superuser_reserved_connections: 0, shared_buffers: "32MB", io_method: "sync" },
    ...{ timezone: "UTC", log_timezone: "UTC", hot_standby: "on" },
  };
  const flags = Object.entries(values).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const running = startProcess({ command: [...asOwner, program, "-D", folder, ...flags], cwd: "/" });
  atEnd(() => void running.kill("SIGQUIT")); // at once, whoever is connected
  await running.untilLine("ready to accept", { withinMs: streamsWithinMs });
}
