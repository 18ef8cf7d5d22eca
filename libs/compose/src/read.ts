/**
 * YAML 1.2 with the merge key of 1.1, as Compose files are written.
 *
 * Y1: no input makes this throw, recurse without end or expand without bound:
 *     nesting is measured on the text before the parser recurses, and aliases
 *     are expanded by us, counted node by node.
 * Y2: a key that stands twice is an error, also where the parser would take the last.
 */
import { isAlias, isMap, isScalar, isSeq, Lexer, LineCounter, parseAllDocuments } from "yaml";
import type { Document, Node, Pair, YAMLMap } from "yaml";
import { MAX_DEPTH, MAX_EXPANDED_CHARS, MAX_INDENT, MAX_ITEMS, MAX_NODES, MAX_TOKENS } from "./limits.ts";
import type { Path, Place, Report } from "./report.ts";
import type { MergeTag, Scalar, Tree } from "./tree.ts";

/** What may still be made; shared by the files of one call. */
export interface Budget {
  nodes: number;
  /** Of strings, where they stand and where aliases repeat them. */
  chars: number;
}

/** A budget for one call. */
export function newBudget(): Budget {
  return { nodes: MAX_NODES, chars: MAX_EXPANDED_CHARS };
}

/** Takes nodes and characters; ends the reading where there are not so many left. */
export function spend(budget: Budget, nodes: number, chars: number, at: Place, path: Path, report: Report): void {
  budget.nodes -= nodes;
  budget.chars -= chars;
  const advice = "Use fewer aliases and extends, or split the stack.";
  if (budget.nodes < 0) {
    const message = `more than ${MAX_NODES} values after aliases and extends are expanded`;
    report.stop("TOO_MANY", at, path, message, advice);
  }
  if (budget.chars < 0) {
    const message = `more than ${MAX_EXPANDED_CHARS} characters after aliases and extends are expanded`;
    report.stop("TOO_LARGE", at, path, message, advice);
  }
}

/** How much of a budget a tree takes. */
export function costOf(tree: Tree): Budget {
  if (tree.kind === "scalar") return { nodes: 1, chars: tree.source.length };
  const cost = { nodes: 1, chars: 0 };
  for (const one of tree.kind === "sequence" ? tree.items : tree.entries.values()) {
    const { nodes, chars } = costOf(one);
    cost.nodes += nodes;
    cost.chars += chars;
  }
  return cost;
}

/** The documents of one file, in order. Errors go to the report; what could be read is returned. */
export function readYaml(file: string, text: string, budget: Budget, report: Report): Tree[] {
  const whole: Place = { file, line: 0, column: 0 };
  if (text.includes("\0")) {
    report.error("YAML_INVALID", whole, [], "the text has a NUL character", "Give the file as UTF-8 text.");
    return [];
  }
  const source = text.startsWith("\uFEFF") ? text.slice(1) : text;
  refuseCost(source, whole, report); // Y1
  const lines = new LineCounter();
  // Not the library's own check of keys: it compares each with all others.
  const documents = parseAllDocuments(source, {
    lineCounter: lines,
    uniqueKeys: false,
    keepSourceTokens: false,
    stringKeys: false,
    prettyErrors: false,
    logLevel: "silent",
  });
  const trees: Tree[] = [];
  for (const document of Array.isArray(documents) ? documents : []) {
    const walk = new Walk(file, document, lines, budget, report);
    let broken = false;
    for (const error of document.errors) {
      broken = true;
      const advice = "Mend the YAML: indentation with spaces, one space after each colon, quotes around special signs.";
      report.error("YAML_INVALID", walk.place(error.pos[0]), [], sentence(error.message), advice);
    }
    if (!broken && document.contents !== null) trees.push(walk.tree(document.contents as Node, [], 0));
  }
  return trees;
}

function sentence(message: string): string {
  return message.split("\n")[0] ?? message;
}

/** Brackets, indentation and `- - -` bound how deep the parser can recurse, tokens how long it takes. */
function refuseCost(text: string, whole: Place, report: Report): void {
  let flow = 0;
  let inLine = 0;
  let line = 1;
  let tokens = 0;
  for (const token of new Lexer().lex(text)) {
    tokens += 1;
    if (tokens > MAX_TOKENS)
      report.stop(
        "TOO_LARGE",
        { ...whole, line, column: 1 },
        [],
        `more than ${MAX_TOKENS} words and signs`,
        "Split the file.",
      );
    if (token.includes("\n")) line += 1;
    if (token === "\n" || token === "\r\n") inLine = 0;
    else if (token === "[" || token === "{") flow += 1;
    else if (token === "]" || token === "}") flow -= 1;
    else if (flow === 0 && (token === "-" || token === "?" || token === ":")) inLine += 1;
    const indent = /^ +$/.test(token) ? token.length : 0;
    if (flow > MAX_DEPTH || inLine > MAX_DEPTH * 2 || (indent > MAX_INDENT && inLine === 0 && flow === 0))
      report.stop(
        "TOO_DEEP",
        { ...whole, line, column: 1 },
        [],
        `nested deeper than ${MAX_DEPTH}`,
        "Write the file flatter.",
      );
  }
}

class Walk {
  readonly #file: string;
  readonly #document: Document;
  readonly #lines: LineCounter;
  readonly #budget: Budget;
  readonly #report: Report;
  readonly #anchors = new Map<string, Node[]>();
  /** Anchored nodes that are being expanded: an alias to one of them contains itself. */
  readonly #open = new Set<Node>();

  constructor(file: string, document: Document, lines: LineCounter, budget: Budget, report: Report) {
    this.#file = file;
    this.#document = document;
    this.#lines = lines;
    this.#budget = budget;
    this.#report = report;
  }

  place(offset: number): Place {
    const { line, col } = this.#lines.linePos(offset);
    return { file: this.#file, line, column: col };
  }

  #placeOf(node: Node): Place {
    return this.place(node.range?.[0] ?? 0);
  }

  /** The tree of a node, aliases expanded. */
  tree(node: Node, path: Path, depth: number): Tree {
    const at = this.#placeOf(node);
    if (depth > MAX_DEPTH)
      this.#report.stop("TOO_DEEP", at, path, `nested deeper than ${MAX_DEPTH}`, "Write the file flatter.");
    spend(this.#budget, 1, isScalar(node) ? (node.source ?? "").length : 0, at, path, this.#report);
    if (isAlias(node)) return this.#alias(node, at, path, depth);
    const open = "anchor" in node && node.anchor !== undefined;
    if (open) this.#anchor(String(node.anchor), node);
    if (open) this.#open.add(node);
    const tree = this.#plainTree(node, at, path, depth);
    if (open) this.#open.delete(node);
    return tree;
  }

  #anchor(name: string, node: Node): void {
    const known = this.#anchors.get(name);
    if (known === undefined) this.#anchors.set(name, [node]);
    else if (!known.includes(node)) known.push(node);
  }

  #plainTree(node: Node, at: Place, path: Path, depth: number): Tree {
    const tag = this.#tag(node, at, path);
    const tagged = tag === undefined ? {} : { tag };
    if (isSeq(node)) {
      if (node.items.length > MAX_ITEMS)
        this.#report.stop("TOO_MANY", at, path, `a list of more than ${MAX_ITEMS}`, "Split it over several services.");
      const items = node.items.map((item, index) => this.#item(item, at, [...path, index], depth + 1));
      return { kind: "sequence", items, at, ...tagged };
    }
    if (isMap(node)) return { ...this.#mapping(node, at, path, depth), ...tagged };
    return { ...scalar(node, at), ...tagged };
  }

  #item(item: unknown, at: Place, path: Path, depth: number): Tree {
    if (item === null || item === undefined) return { kind: "scalar", value: null, source: "", quoted: false, at };
    return this.tree(item as Node, path, depth);
  }

  /** The nearest anchor of that name above the alias, as YAML says. */
  #target(alias: Node): Node | undefined {
    if (!isAlias(alias)) return undefined;
    const before = (this.#anchors.get(alias.source) ?? []).filter(
      (node) => (node.range?.[0] ?? 0) < (alias.range?.[0] ?? 0),
    );
    return before.at(-1) ?? alias.resolve(this.#document);
  }

  #alias(alias: Node, at: Place, path: Path, depth: number): Tree {
    const target = this.#target(alias);
    if (target === undefined || this.#open.has(target)) {
      const message = target === undefined ? "an alias without an anchor before it" : "an alias inside its own anchor";
      this.#report.stop(
        "YAML_ALIAS_INVALID",
        at,
        path,
        message,
        "Name an anchor (&name) that stands above and ends there.",
      );
    }
    return this.tree(target, path, depth);
  }

  #tag(node: Node, at: Place, path: Path): MergeTag | undefined {
    const tag = node.tag;
    if (tag === "!reset" || tag === "!override") return tag.slice(1) as MergeTag;
    if (tag !== undefined && !/^tag:yaml\.org,2002:(str|int|float|bool|null|map|seq)$/.test(tag)) {
      const advice = "Leave the tag out; only !reset and !override have a meaning in Compose files.";
      this.#report.error("YAML_TAG_UNKNOWN", at, path, `the tag ${tag} is unknown`, advice);
    }
    return undefined;
  }

  #mapping(node: YAMLMap, at: Place, path: Path, depth: number): Tree & { kind: "mapping" } {
    const entries = new Map<string, Tree>();
    const keys = new Map<string, Place>();
    const merged: Tree[] = [];
    for (const pair of node.items as Pair<unknown, unknown>[]) {
      const keyNode = (isAlias(pair.key) ? this.#target(pair.key) : pair.key) as Node | null;
      const keyAt = pair.key === null ? at : this.#placeOf(pair.key as Node);
      if (!isScalar(keyNode)) {
        this.#report.error("YAML_INVALID", keyAt, path, "a key that is no word", "Use a plain word as the key.");
        continue;
      }
      const key = textKey(keyNode);
      const value = this.#item(pair.value, keyAt, [...path, key], depth + 1);
      if (key === "<<" && keyNode.type === "PLAIN") merged.push(...this.#sources(value, keyAt, path));
      else if (keys.has(key)) {
        const advice = "Keep one of them; an override belongs in another file.";
        this.#report.error(
          "YAML_DUPLICATE_KEY",
          keyAt,
          [...path, key],
          `the key ${JSON.stringify(key)} stands twice`,
          advice,
        ); // Y2
      } else {
        entries.set(key, value);
        keys.set(key, keyAt);
      }
    }
    for (const source of merged) {
      if (source.kind !== "mapping") continue;
      for (const [key, value] of source.entries) {
        if (entries.has(key)) continue; // what stands here wins, then the first merged
        entries.set(key, value);
        keys.set(key, source.keys.get(key) ?? value.at);
      }
    }
    return { kind: "mapping", entries, keys, at };
  }

  /** The mappings that a merge key names. */
  #sources(value: Tree, at: Place, path: Path): Tree[] {
    const sources = value.kind === "sequence" ? [...value.items] : [value];
    if (sources.every((source) => source.kind === "mapping")) return sources;
    const advice = "Merge a mapping (`<<: *name`) or a list of them (`<<: [*one, *two]`).";
    this.#report.error(
      "YAML_ALIAS_INVALID",
      at,
      [...path, "<<"],
      "a merge key of something that is no mapping",
      advice,
    );
    return [];
  }
}

function textKey(node: { value: unknown; source?: string }): string {
  return typeof node.value === "string" ? node.value : (node.source ?? String(node.value));
}

function scalar(node: Node, at: Place): Scalar {
  if (!isScalar(node)) return { kind: "scalar", value: null, source: "", quoted: false, at };
  const quoted = node.type !== "PLAIN";
  const { value } = node;
  const source = node.source ?? "";
  if (value === null || value === undefined) return { kind: "scalar", value: null, source, quoted, at };
  if (typeof value === "boolean" || typeof value === "string") return { kind: "scalar", value, source, quoted, at };
  // A number that JSON cannot hold (.inf, .nan) stays the text that it was.
  const number = Number(value);
  return { kind: "scalar", value: Number.isFinite(number) ? number : source, source, quoted, at };
}
