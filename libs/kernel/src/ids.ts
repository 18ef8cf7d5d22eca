/**
 * Ids as TypeIDs (github.com/jetify-com/typeid, 0.3): a prefix that tells the
 * kind, an underscore, and a UUIDv7 as 26 characters of Crockford's base32 in
 * lower case. They sort by the millisecond of their making.
 *
 * I1: a valid id has one spelling; what differs from it is not an id.
 * I2: of two ids that one process made in one millisecond, the later is greater,
 *     so that what it makes in turn is listed in turn.
 */

/** An id of the kind that `Prefix` names, as in `Id<"cluster">`. */
export type Id<Prefix extends string = string> = `${Prefix}_${string}`;

/** What an id says about itself. */
export type ParsedId = {
  prefix: string;
  /** The UUID inside, in its usual spelling. */
  uuid: string;
  /** When it was made, in ms since 1970, by the clock of who made it. */
  createdAtMs: number;
};

const alphabet = "0123456789abcdefghjkmnpqrstvwxyz";
const suffixLength = 26;
/** The specification's limit for a prefix. */
const maxPrefixLength = 63;
const prefixPattern = /^[a-z]([a-z_]*[a-z])?$/;
/** 26 characters hold 130 bits and a UUID has 128, so the first is at most 7 (I1). */
const suffixPattern = /^[0-7][0-9a-hjkmnp-tv-z]{25}$/;

/**
 * A new id. `prefix` is 1 to 63 lower-case letters, with underscores between
 * them; `nowMs` is the time that the id carries. Throws a RangeError on others.
 */
export function newId<const Prefix extends string>(prefix: Prefix, nowMs: number = Date.now()): Id<Prefix> {
  if (!isPrefix(prefix)) throw new RangeError(`not an id's prefix: ${JSON.stringify(prefix)}`);
  return `${prefix}_${encode(uuidV7(nowMs))}`;
}

/** What no id of this kind made at `nowMs` or later is below, and every one made before it is. */
export function lowestId<const Prefix extends string>(prefix: Prefix, nowMs: number): Id<Prefix> {
  const bytes = new Uint8Array(bytesOfUuid);
  writeTime(bytes, nowMs);
  return `${prefix}_${encode(bytes)}`;
}

/** Reads an id of any kind; undefined if `value` is not one. */
export function parseId(value: string): ParsedId | undefined {
  const at = value.length - suffixLength - 1;
  if (at < 1 || value[at] !== "_") return undefined;
  const prefix = value.slice(0, at);
  const suffix = value.slice(at + 1);
  if (!isPrefix(prefix) || !suffixPattern.test(suffix)) return undefined;
  const bits = decode(suffix);
  const hex = bits.toString(16).padStart(32, "0");
  const uuid = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  return { prefix, uuid, createdAtMs: Number(bits >> 80n) };
}

/** True if `value` is an id of the kind that `prefix` names. Takes what comes from outside: any type, any length. */
export function isId<const Prefix extends string>(prefix: Prefix, value: unknown): value is Id<Prefix> {
  if (typeof value !== "string" || value.length !== prefix.length + 1 + suffixLength) return false;
  return parseId(value)?.prefix === prefix;
}

function isPrefix(prefix: string): boolean {
  return prefix.length <= maxPrefixLength && prefixPattern.test(prefix);
}

/** Random bytes are drawn for many ids at once; each is used once. */
const pool = new Uint8Array(4_096);
const bytesOfUuid = 16;
let drawn = pool.length;

/** The 12 bits after the time and the version, of the newest id and its millisecond (I2). */
let counted = 0;
let countedAtMs = -1;
const mostCounted = 0xfff;

/**
 * RFC 9562, 5.7 and method 1 of 6.2: 48 bits of time, version 7, 12 bits that begin at a random number below 2048 in
 * each millisecond and count its ids, variant 10, 62 random bits. More than 2048 ids of one millisecond may share the
 * highest number, and are in no order then.
 */
function uuidV7(nowMs: number): Uint8Array {
  if (drawn === pool.length) {
    crypto.getRandomValues(pool);
    drawn = 0;
  }
  const bytes = pool.slice(drawn, (drawn += bytesOfUuid));
  writeTime(bytes, nowMs);
  counted =
    nowMs === countedAtMs ? Math.min(counted + 1, mostCounted) : (((bytes[6] ?? 0) << 8) | (bytes[7] ?? 0)) & 0x7ff;
  countedAtMs = nowMs;
  bytes[6] = 0x70 | (counted >> 8);
  bytes[7] = counted & 0xff;
  bytes[8] = 0x80 | ((bytes[8] ?? 0) & 0x3f);
  return bytes;
}

function writeTime(bytes: Uint8Array, nowMs: number): void {
  if (!Number.isInteger(nowMs) || nowMs < 0 || nowMs >= 2 ** 48) throw new RangeError(`no time of an id: ${nowMs}`);
  for (let place = 5, rest = nowMs; place >= 0; place -= 1, rest = Math.floor(rest / 256)) bytes[place] = rest % 256;
}

/** 128 bits in groups of five, after two that are 0. */
function encode(uuid: Uint8Array): string {
  let text = "";
  let bits = 0;
  let held = 2;
  for (const byte of uuid) {
    bits = ((bits << 8) | byte) & 0xfff; // never more than four are left over
    held += 8;
    for (; held >= 5; held -= 5) text += alphabet.charAt((bits >> (held - 5)) & 31);
  }
  return text;
}

function decode(suffix: string): bigint {
  let bits = 0n;
  for (const character of suffix) bits = (bits << 5n) | BigInt(alphabet.indexOf(character));
  return bits;
}
