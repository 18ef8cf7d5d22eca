/** Bounds of what a stranger's files may cost. Each is far above what people write. */

/** Characters of all files together. The largest of 97 files from public repositories has 39 thousand. */
export const MAX_TEXT_CHARS = 512 * 1024;

/** Words and signs of YAML in one file: each costs far more than a letter. The largest of those files has 5 thousand. */
export const MAX_TOKENS = 60_000;

/** Files in one call: composed projects have a base and a few overrides. */
export const MAX_FILES = 64;

/** Nodes after aliases are expanded. Billion laughs has 10^9; a file of 70 services about 5 thousand. */
export const MAX_NODES = 100_000;

/** Mappings and sequences inside each other. The schema itself needs 9. */
export const MAX_DEPTH = 64;

/** Columns of indentation: one more bound of depth, read before the parser recurses. */
export const MAX_INDENT = 512;

/** Services of one stack: what one page can show and one transaction can place. */
export const MAX_SERVICES = 500;

/** Instances of one service; the contract has the same bound. */
export const MAX_REPLICAS = 1000;

/** Ports of one range, such as `8000-8100:8000-8100`: each becomes a port of its own. */
export const MAX_PORT_RANGE = 1000;

/** Characters that interpolation makes of one set of files: a short text can name a long variable often. */
export const MAX_INTERPOLATED_CHARS = 4 * 1024 * 1024;

/**
 * Characters of strings after aliases and `extends` are expanded: an alias of a long string is short. Without aliases
 * there are no more than MAX_TEXT_CHARS.
 */
export const MAX_EXPANDED_CHARS = 4 * 1024 * 1024;

/**
 * Characters that env files and variables bring into environments, counted for each service that names them: a few
 * words name a file of 1 MiB. It is what one message to an agent holds; 500 services with 8 KiB each stay below.
 */
export const MAX_ENVIRONMENT_CHARS = 4 * 1024 * 1024;

/**
 * Bytes of all configs and secrets of a stack: many may name one file. Twice what one request brings.
 */
export const MAX_CONTENTS_BYTES = 8 * 1024 * 1024;

/** `${A:-${B:-…}}` inside each other; people nest three. */
export const MAX_INTERPOLATION_DEPTH = 32;

/** `extends` after one another; people chain three. */
export const MAX_EXTENDS = 32;

/** `include` inside each other. */
export const MAX_INCLUDES = 16;

/** Diagnostics of one call; who has more mends these first. */
export const MAX_DIAGNOSTICS = 200;

/** Bytes of one secret, config or file's content; the contract has the same bound for files. */
export const MAX_CONTENT_BYTES = 1024 * 1024;

/** Items of one sequence: the schema asks whether they are unique, which compares each with all. */
export const MAX_ITEMS = 2000;
