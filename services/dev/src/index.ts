/** What `npm start` runs: a server and an agent on this machine, and the example. */
export {};
