/** What tests stand on: real Postgres and Redis, a scripted agent and server, a proxy that misbehaves. */
export {};
