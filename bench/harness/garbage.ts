/**
 * Has another process of Node's collect its garbage, over its inspector: what
 * work that is over has left behind depends on when V8 collected last, and is
 * not what holding something costs.
 */

/** Of a heap of some GB. */
const withinMs = 60_000;

/** `inspector`: the address that a process started with --inspect says. */
export function collectGarbage(inspector: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(inspector);
    const late = setTimeout(() => reject(new Error("a process did not collect its garbage")), withinMs);
    socket.onopen = () => socket.send(JSON.stringify({ id: 1, method: "HeapProfiler.collectGarbage" }));
    socket.onmessage = () => {
      clearTimeout(late);
      socket.onclose = () => resolve();
      socket.close();
    };
    socket.onerror = () => {
      clearTimeout(late);
      reject(new Error("a process let nobody inspect it"));
    };
  });
}
