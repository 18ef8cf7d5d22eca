/** Tables, migrations, the pool, and the embedded PostgreSQL. */
export * from "./backup/dump.ts";
export * from "./backup/load.ts";
export {
  backupReasons,
  BackupError,
  type BackupProgress,
  type BackupReason,
  encryptionKeyFile,
  type Manifest,
  manifestFile,
  readManifest,
} from "./backup/manifest.ts";
export * from "./backup/verify.ts";
export * from "./command-states.ts";
export * from "./embedded/index.ts";
export * from "./migrate.ts";
export * from "./notices.ts";
export * from "./pool.ts";
export { insertRows, type RowOf } from "./rows.ts";
export * from "./columns.ts";
export * from "./tables-history.ts";
export * from "./tables-products.ts";
export * from "./tables-secrets.ts";
export * from "./tables-stacks.ts";
export * from "./tables.ts";
