/**
 * What can keep the embedded PostgreSQL from running: a closed set. The reason
 * is stable and documented; the message says what to do about it.
 */
export const embeddedPostgresReasons = [
  /** This machine has no binaries: not Linux, musl instead of glibc, or a processor without a package. */
  "POSTGRES_PLATFORM_UNSUPPORTED",
  /** The npm package with the binaries is absent or incomplete. */
  "POSTGRES_BINARIES_MISSING",
  /** Another server holds this data directory. */
  "DATA_DIRECTORY_IN_USE",
  /** The data directory cannot be created or written. */
  "DATA_DIRECTORY_NOT_WRITABLE",
  /** The user that PostgreSQL has to run as cannot get to the data directory. */
  "DATA_DIRECTORY_UNREACHABLE",
  /** The data was written by another major version of PostgreSQL. */
  "POSTGRES_VERSION_MISMATCH",
  /** What lies in the data directory is not a PostgreSQL cluster. */
  "POSTGRES_DATA_UNUSABLE",
  /** Creating the cluster failed; PostgreSQL's own words are in the message. */
  "POSTGRES_INITDB_FAILED",
  /** PostgreSQL did not become ready; its own last words are in the message. */
  "POSTGRES_START_FAILED",
] as const;

export type EmbeddedPostgresReason = (typeof embeddedPostgresReasons)[number];

/** Thrown by `runEmbeddedPostgres`. Callers switch on `reason`. */
export class EmbeddedPostgresError extends Error {
  readonly reason: EmbeddedPostgresReason;

  constructor(reason: EmbeddedPostgresReason, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "EmbeddedPostgresError";
    this.reason = reason;
  }
}

/** The way out that every machine has; ends the messages about this one's limits. */
export const externalDatabaseHint =
  "set BOWLINE_DATABASE_URL to a PostgreSQL server of your own (postgres://user:password@host:5432/database)";

/** The error code of a failed system call, or undefined. */
export function systemCode(error: unknown): string | undefined {
  const code = propertyOf(error, "code");
  return typeof code === "string" ? code : undefined;
}

/** Asked of the object, not of its class: Node's own errors are of another realm where modules run in a vm. */
export function propertyOf(error: unknown, name: string): unknown {
  return typeof error === "object" && error !== null ? (error as Record<string, unknown>)[name] : undefined;
}
