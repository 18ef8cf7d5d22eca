/**
 * Tokens, keys and sealing: everything secret, in one place.
 *
 *   tokens.ts         registration and API tokens: made, read, compared
 *   keys.ts           an agent's key pairs (Ed25519, X25519) as JWKs
 *   assertions.ts     what an agent signs: session assertions, enrolment proofs
 *   access-tokens.ts  what the server signs: the JWT of a session's unary calls
 *   sealing.ts        secrets to one agent (JWE)
 *   encryption.ts     secrets at rest (AES-256-GCM)
 *   private-files.ts  files of mode 0600 that survive a crash whole
 */
export * from "./access-tokens.ts";
export * from "./assertions.ts";
export * from "./encryption.ts";
export * from "./keys.ts";
export * from "./private-files.ts";
export * from "./sealing.ts";
export * from "./tokens.ts";
