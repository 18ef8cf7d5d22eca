/** Loaded before a program (`node --import`): its `Date` is off by BOWLINE_FAULTS_CLOCK_MS. */
const offMs = Number(process.env["BOWLINE_FAULTS_CLOCK_MS"] ?? 0);
const True = Date;

class Shifted extends True {
  constructor(...args: unknown[]) {
    super(...((args.length === 0 ? [True.now() + offMs] : args) as [number]));
  }
  static override now(): number {
    return True.now() + offMs;
  }
}
globalThis.Date = Shifted as DateConstructor;
