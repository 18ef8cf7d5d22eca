/** Why `npm start` cannot go on, in words for people. */

export class StartFailure extends Error {
  override readonly name = "StartFailure";
  /** The stage that it happened in. */
  readonly stage: string;
  /** More lines: what was seen, what to do. */
  readonly lines: readonly string[];

  constructor(stage: string, message: string, lines: readonly string[] = [], cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.stage = stage;
    this.lines = lines;
  }
}
