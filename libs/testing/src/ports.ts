/** Ports for tests. Prefer `--port 0` where what listens can say which one it got. */
import { createServer, type AddressInfo } from "node:net";

/** A TCP port of 127.0.0.1 that was free a moment ago. The kernel gives another one to the next caller. */
export async function freePort(): Promise<number> {
  const server = createServer();
  const port = await new Promise<number>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port));
  });
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return port;
}
