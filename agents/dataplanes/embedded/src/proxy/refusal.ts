/** Routes that are not served, with the field that is the cause, as the contract names it. */
export class Refusal extends Error {
  readonly path: string;
  constructor(path: string, message: string) {
    super(message);
    this.path = path;
  }
}
