/** Connections that have not shown their protocol: a time for each, and how many there may be. */
import type { Socket } from "node:net";
import type { PortLimits } from "./port-limits.ts";

export interface WaitingRoom {
  /** Closes the connection unless what is returned is called in time, or another takes its place. */
  enter(socket: Socket): () => void;
  /** Closes all. */
  clear(): void;
}

export function createWaitingRoom({
  decideWithinMs,
  maxUndecided,
}: Pick<PortLimits, "decideWithinMs" | "maxUndecided">): WaitingRoom {
  const undecided = new Set<Socket>();
  return {
    enter(socket) {
      if (undecided.size >= maxUndecided) undecided.values().next().value?.destroy();
      const deadline = setTimeout(() => socket.destroy(), decideWithinMs);
      const leave = (): void => {
        clearTimeout(deadline);
        undecided.delete(socket);
        socket.off("close", leave);
      };
      undecided.add(socket);
      socket.on("close", leave);
      return leave;
    },
    clear() {
      for (const socket of undecided) socket.destroy();
    },
  };
}

/**
 * Looks at a connection's first bytes until `look` can tell (undefined: not
 * yet), gives them back, pauses it and calls `told`. A connection that ends
 * before is closed.
 */
export function firstBytes<T>(socket: Socket, look: (head: Buffer) => T | undefined, told: (what: T) => void): void {
  let head: Buffer = Buffer.alloc(0);
  const giveUp = (): void => void socket.destroy();
  const detach = (): void => void socket.off("data", read).off("end", giveUp).off("error", giveUp).off("close", detach);
  const read = (chunk: Buffer): void => {
    head = head.length === 0 ? chunk : Buffer.concat([head, chunk]);
    const what = look(head);
    if (what === undefined) return;
    detach();
    socket.pause();
    socket.unshift(head);
    told(what);
  };
  socket.on("data", read).on("end", giveUp).on("error", giveUp).on("close", detach);
}

const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "latin1");

/** HTTP/2 begins with the 24 bytes of its preface; HTTP/1.1 shows at the first byte that differs. */
export function protocolOf(head: Buffer): "http1" | "http2" | undefined {
  const length = Math.min(head.length, preface.length);
  const same = head.compare(preface, 0, length, 0, length) === 0;
  if (same && length < preface.length) return undefined;
  return same ? "http2" : "http1";
}
