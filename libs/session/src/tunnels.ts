/** What both ends of a tunnel keep to (proto/bowline/agent/v1/tunnels.proto). */

/** Bytes of one frame: small, so that a terminal's answer never waits long behind other output. */
export const maxTunnelChunkBytes = 32 * 1024;

/** A side with nothing to say says so this often: below the idle timers of proxies, and often enough to notice an end. */
export const tunnelKeepAliveMs = 5_000;

/** After this much silence the other side is gone: four signs of life missed. */
export const tunnelSilenceMs = 20_000;

/** From OpenTunnel to its arrival: a dial through proxies, with a few tries. */
export const tunnelOpenWithinMs = 30_000;

/** Open tunnels of one agent. Each is a connection of its own there. */
export const maxTunnelsOfAgent = 32;

/** Frames with containers that are not ours: 8 MiB, some twenty thousand of them. */
export const maxContainerFrames = 256;

/** Of one request of a polled tunnel: a second's worth of a slow line. */
export const maxTunnelRequestBytes = 256 * 1024;
/** The same, of small frames: what a chatty program writes in a moment. */
export const maxTunnelFramesOfRequest = 256;
/** A request is held this long: below the 30 s after which hasty proxies give one up. */
export const tunnelPollMs = 15_000;

/** Pieces of at most `maxTunnelChunkBytes`. */
export function* inChunks(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += maxTunnelChunkBytes) yield bytes.subarray(at, at + maxTunnelChunkBytes);
}
