/** The framed stream between agent and server, used by both ends. */
export {};
