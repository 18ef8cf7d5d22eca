/** Bytes of one instance as lines of text. */

/** A longer line comes in parts, so that one without an end does not fill the memory. */
const maxLineBytes = 32 * 1024;

export interface Line {
  text: string;
  /** Where each line begins with its time, as the tunnel gives it. */
  time?: Date;
}

export interface LineReader {
  /** The lines that are whole now. */
  feed(bytes: Uint8Array): Line[];
  /** What is left at the end. */
  rest(): Line[];
}

/** `timed`: each line begins with its time (RFC 3339) and a blank, where the runtime knows it. */
export function createLineReader(timed: boolean): LineReader {
  let held = Buffer.alloc(0);
  /** The line goes on after a part. */
  let inside = false;

  function lineOf(bytes: Buffer, ends: boolean): Line {
    const begins = !inside;
    inside = !ends;
    const text = bytes.toString("utf8").replace(/\r$/, "");
    const found = timed && begins ? /^(\d{4}-\d\d-\d\dT\S{8,40}) /.exec(text) : null;
    const time = found === null ? NaN : Date.parse(found[1] ?? "");
    if (found === null || Number.isNaN(time)) return { text };
    return { text: text.slice(found[0].length), time: new Date(time) };
  }

  return {
    feed(bytes) {
      held = held.length === 0 ? Buffer.from(bytes) : Buffer.concat([held, bytes]);
      const lines: Line[] = [];
      for (let end = held.indexOf(10); end >= 0 || held.length > maxLineBytes; end = held.indexOf(10)) {
        const ends = end >= 0 && end <= maxLineBytes;
        const at = ends ? end : partEnd(held);
        lines.push(lineOf(held.subarray(0, at), ends));
        held = held.subarray(ends ? at + 1 : at);
      }
      return lines;
    },
    rest() {
      const lines = held.length === 0 ? [] : [lineOf(held, true)];
      held = Buffer.alloc(0);
      return lines;
    },
  };
}

/** Not in the middle of a character of UTF-8. */
function partEnd(bytes: Buffer): number {
  let at = maxLineBytes;
  while (at > maxLineBytes - 4 && ((bytes[at] ?? 0) & 0xc0) === 0x80) at -= 1;
  return at;
}
