/** One direction of a connection through a proxy (tcp-proxy.ts): in order, late, or not yet. */
import type { Socket } from "node:net";

export interface Pipe {
  /** Writes what may go now. Call it when what `held` and `delayMs` answer has changed. */
  pump(): void;
  /** Goes on after `meets` has stopped it. */
  release(): void;
  /** Forgets what waits. */
  end(): void;
}

export interface PipeWays {
  /** Added to the way of what comes now. */
  delayMs(): number;
  /** True: nothing passes. */
  held(): boolean;
  /** Asked once per chunk, when it is about to pass; true stops the pipe before it, until `release`. */
  meets(bytes: Buffer): boolean;
}

/** Kept per direction before the sender is slowed down: far above a message of ours. */
const maxWaitingBytes = 8 * 1024 * 1024;

export function createPipe(from: Socket, to: Socket, ways: PipeWays): Pipe {
  /** Null: the sender's end. */
  const queue: { bytes: Buffer | null; dueAt: number }[] = [];
  let waitingBytes = 0;
  let stopped = false;
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
      const wait = next.dueAt - performance.now();
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
      looked = false;
      queue.shift();
      waitingBytes -= bytes?.length ?? 0;
      if (from.isPaused() && waitingBytes <= maxWaitingBytes) from.resume();
      if (bytes === null) to.end();
      else to.write(bytes);
    }
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
