/** A value that cannot be read, on its way to the report (reader.ts), which knows its place. */
export class Unreadable extends Error {
  readonly advice: string;

  constructor(message: string, advice: string) {
    super(message);
    this.advice = advice;
  }
}
