/**
 * The forwarder of one deployment, as its agent handles it: a process on the
 * agent's host (process.ts), or whatever else a runtime starts where that is
 * not the host whose ports are meant.
 */
import type { ForwardDocument, ForwardStatus } from "./document.ts";

export interface Forwarder {
  /** Finds what an earlier agent left running. */
  adopt(): Promise<void>;
  /** True while it lives, as far as is known. */
  alive(): boolean;
  /** As it told it last. */
  status(): ForwardStatus | undefined;
  /** What the last agent told it. */
  stored(): Promise<ForwardDocument | undefined>;
  /** Starts it if it does not live; resolves when it has taken the document or refused it. Throws INTERNAL where it does not answer. */
  tell(document: Omit<ForwardDocument, "revision">): Promise<ForwardStatus>;
  /** Whether what lives is of another version than this agent would start. */
  outdated(): boolean;
  /** Ends what is outdated; the next document is taken by this agent's version. */
  renew(): Promise<void>;
  end(): Promise<void>;
  /** Ends it and removes what is kept of it. */
  erase(): Promise<void>;
  /** Looks after it no longer; it goes on. */
  letGo(): void;
}
