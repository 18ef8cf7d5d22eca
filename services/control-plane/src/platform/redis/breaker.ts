/**
 * The circuit breaker before Redis.
 *
 * B1: while it is open nobody waits for Redis: calls are refused at once.
 * B2: only a probe closes it, so no caller is the one who tries.
 * B3: it opens after a few failures in a row, so that one lost packet doesn't.
 */
export interface Breaker {
  isOpen(): boolean;
  succeeded(how: { probe: boolean }): void;
  failed(): void;
}

/** One may be chance, and a busy process of ours may itself be late; three in a row are not. */
export const failuresToOpen = 3;

/** Open at first: what was never reached is away. `changed` is told each time it opens or closes. */
export function createBreaker(changed: (open: boolean) => void): Breaker {
  let open = true;
  let failures = 0;
  return {
    isOpen: () => open,
    succeeded({ probe }) {
      if (open && !probe) return; // B2: an answer that was under way when it opened
      failures = 0;
      if (!open) return;
      open = false;
      changed(open);
    },
    failed() {
      failures += 1;
      if (open || failures < failuresToOpen) return; // B3
      open = true;
      changed(open);
    },
  };
}
