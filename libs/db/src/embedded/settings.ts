/**
 * The settings of the embedded PostgreSQL. They are given on the command line
 * at each start, so a new version of Bowline changes them without touching
 * anyone's data directory.
 */
export type PostgresSettings = {
  /** A folder that only this user can enter: it is the authentication. */
  socketFolder: string;
  /**
   * False gives up the safety of committed data for speed: for tests, whose
   * database dies with them. True everywhere else.
   */
  durable: boolean;
  /** Client connections at the same time, 5 to 500. */
  maxConnections: number;
  /** More of PostgreSQL's own, which win: for a machine that is given to it. */
  more?: Readonly<Record<string, string | number>>;
};

/** One port per socket folder, so any number serves; it is a part of the socket's name. */
export const socketPort = 5432;

/** Marks our processes, so that we never stop one that a person started by hand. */
export const clusterName = "bowline-embedded";

/** The operators' database, and the role that owns it. */
export const databaseName = "bowline";
export const roleName = "bowline";

/** What `pg` needs; there is no password. */
export type EmbeddedConnection = { host: string; port: number; user: string; database: string };

export function postgresArguments(dataFolder: string, settings: PostgresSettings): string[] {
  const values: Record<string, string | number> = {
    cluster_name: clusterName,
    listen_addresses: "",
    port: socketPort,
    unix_socket_directories: quoteListItem(settings.socketFolder),
    unix_socket_permissions: "0700",
    max_connections: settings.maxConnections,
    superuser_reserved_connections: 0,

    // For a developer's idle machine: about 60 MB resident in all. The kernel's
    // page cache serves what does not fit here; a busy installation brings its own PostgreSQL.
    shared_buffers: "32MB",
    work_mem: "4MB",
    maintenance_work_mem: "32MB",
    min_wal_size: "32MB",
    max_wal_size: "256MB",
    io_method: "sync", // No I/O worker processes.
    max_parallel_workers_per_gather: 0,
    max_worker_processes: 2,
    max_logical_replication_workers: 0, // No launcher process.
    autovacuum_max_workers: 2,
    max_wal_senders: 3, // A base backup and a standby.
    jit: "off",
    huge_pages: "off",

    ...(settings.durable
      ? { fsync: "on", synchronous_commit: "on", full_page_writes: "on" }
      : { fsync: "off", synchronous_commit: "off", full_page_writes: "off", autovacuum_naptime: "1h" }),

    timezone: "UTC",
    log_timezone: "UTC",
    log_destination: "stderr",
    logging_collector: "off", // We bound the log ourselves: the collector has no bound by size.
    log_checkpoints: "off",
    log_line_prefix: "%m [%p] %d ",
    log_min_messages: "warning",
    log_min_error_statement: "error",
    log_parameter_max_length_on_error: 0, // Parameters may be secrets.
    ...settings.more,
  };
  return ["-D", dataFolder, ...Object.entries(values).flatMap(([name, value]) => ["-c", `${name}=${value}`])];
}

/** The setting is a list: a comma or blank inside a folder's name needs quotes. */
function quoteListItem(folder: string): string {
  return `"${folder.replaceAll('"', '""')}"`;
}
