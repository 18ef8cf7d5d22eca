/** One direction of a connection through a proxy (tcp-proxy.ts): in order, late, slow, or not yet. */
import type { Socket } from "node:net";

export interface Pipe {
  /** Writes what may go now. Call it when what `held` or `bytesPerSecond` answers has changed. */
  pump(): void;
  /** Goes on after `meets` has stopped it. */
  release(): void;
  /** Forgets what waits. */
  end(): void;
}

export interface PipeWays {
  /** Added to the way of what comes now; what comes after it does not overtake it. */
  delayMs(): number;
  /** How fast it passes now; Infinity: at once. */
  bytesPerSecond(): number;
  /** True: nothing passes. */
  held(): boolean;
  /** Asked once per chunk, when it is about to pass; true stops the pipe before it, until `release`. */
  meets(bytes: Buffer): boolean;
}

/** What passes a slow pipe at once: small enough that a limit is one from the first second on. */
const slicesPerSecond = 20;
/** Kept per direction before the sender is slowed down: far above a message of ours. */
const maxWaitingBytes = 8 * 1024 * 1024;

export function createPipe(from: Socket, to: Socket, ways: PipeWays): Pipe {
  /** Null: the sender's end. */
  const queue: { bytes: Buffer | null; dueAt: number }[] = [];
  let waitingBytes = 0;
  let stopped = false;
  /** A slow pipe is taken by what it let through last. */
  let freeAt = 0;
  let looked = false;
  let timer: NodeJS.Timeout | undefined;

  const put = (bytes: Buffer | null): void => {
    queue.push({ bytes, dueAt: performance.now() + ways.delayMs() });
    waitingBytes += bytes?.length ?? 0;
    if (waitingBytes > maxWaitingBytes) from.pause();
    pump();
  };
  from.on("data", put).on("end", () => put(null));
  to.on("drain", pump);

  function pump(): void {
    clearTimeout(timer);
    for (let next = queue[0]; next !== undefined; next = queue[0]) {
      if (stopped || ways.held() || to.writableNeedDrain) return;
      const now = performance.now();
      const wait = Math.max(next.dueAt, freeAt) - now;
      if (wait > 0) {
        timer = setTimeout(pump, wait);
        return;
      }
      const { bytes } = next;
      if (bytes !== null && !looked) {
        looked = true;
        if (ways.meets(bytes)) {
          stopped = true;
          return;
        }
      }
      const slice = sliceOf(next, now);
      waitingBytes -= slice?.length ?? 0;
      if (from.isPaused() && waitingBytes <= maxWaitingBytes) from.resume();
      if (slice === null) to.end();
      else to.write(slice);
    }
  }

  /** What of the first in the queue may pass now; the rest of it stays the first. */
  function sliceOf(next: { bytes: Buffer | null }, now: number): Buffer | null {
    const { bytes } = next;
    const bytesPerSecond = ways.bytesPerSecond();
    const most = Math.max(1, Math.floor(bytesPerSecond / slicesPerSecond));
    freeAt = bytesPerSecond === Infinity ? 0 : now + (Math.min(most, bytes?.length ?? 0) / bytesPerSecond) * 1_000;
    if (bytes !== null && bytes.length > most) {
      next.bytes = bytes.subarray(most);
      return bytes.subarray(0, most);
    }
    looked = false;
    queue.shift();
    return bytes;
  }

  return {
    pump,
    release() {
      stopped = false;
      pump();
    },
    end() {
      clearTimeout(timer);
      queue.length = 0;
      stopped = true;
    },
  };
}
