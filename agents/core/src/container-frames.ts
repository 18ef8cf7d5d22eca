/** Containers in frames of a tunnel that hold no more than others do. */
import { toBinary } from "@bufbuild/protobuf";
import { type ForeignContainer, ForeignContainerSchema } from "@bowline/contract/agents";
import { maxContainerFrames, maxTunnelChunkBytes } from "@bowline/session";

/** At least one, also for none. What is beyond the bound is left out, and the last frame says so. */
export function* containerFrames(
  containers: readonly ForeignContainer[],
): Generator<{ containers: ForeignContainer[]; truncated?: boolean }> {
  let piece: ForeignContainer[] = [];
  let bytes = 0;
  let frames = 1;
  for (const container of containers) {
    const size = toBinary(ForeignContainerSchema, container).length;
    if (bytes + size > maxTunnelChunkBytes && piece.length > 0) {
      if (frames === maxContainerFrames) return yield { containers: piece, truncated: true };
      yield { containers: piece };
      [piece, bytes, frames] = [[], 0, frames + 1];
    }
    piece.push(container);
    bytes += size;
  }
  yield { containers: piece };
}
