/** Types of columns that several tables have. */
import type { ColumnType } from "kysely";

/** jsonb: read as a value, written as JSON text, so that arrays aren't taken for PostgreSQL's own. */
export type Json<T = unknown> = ColumnType<T, string, string>;
/** jsonb with a default. */
export type JsonDefault<T = unknown> = ColumnType<T, string | undefined, string>;
/** jsonb that may be null. */
export type JsonOrNull<T = unknown> = ColumnType<T | null, string | null | undefined, string | null>;
