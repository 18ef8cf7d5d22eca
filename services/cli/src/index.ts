/** The bowline command. */
export {};
