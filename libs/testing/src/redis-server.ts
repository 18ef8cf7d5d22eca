/** Where tests find a redis-server. */
import { findProgram, type FoundProgram } from "./debian-programs.ts";

/** Throws with the command that helps if there is none. */
export async function findRedisServer(): Promise<FoundProgram> {
  return findProgram({
    name: "redis-server",
    path: "usr/bin/redis-server",
    packages: ["redis-server", "redis-tools", "libatomic1", "libjemalloc2", "liblzf1", "libssl3", "libsystemd0"],
    missing:
      "tests need a Redis: install one (apt-get install redis-server), or let Debian's package be fetched " +
      "(apt-get has to reach a mirror), or set TEST_REDIS_URL",
  });
}
