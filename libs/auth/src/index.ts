/** Tokens, keys and sealing. */
export {};
