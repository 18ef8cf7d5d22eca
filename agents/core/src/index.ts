/** The agent: connect, supervise, journal, converge; and its ports, runtime and data plane. */
export {};
