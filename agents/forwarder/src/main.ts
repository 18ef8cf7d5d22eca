/** The entry of the forwarder's process: program.ts. Everything else is loaded after the cache of compiled code is in place. */
import { keepCompiledCode } from "@bowline/start";

keepCompiledCode();
await import("./program.ts");
