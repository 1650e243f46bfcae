import type { Capture } from "../capture/capture.ts";
import { newFloats } from "../capture/hooks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { CodeReader, SparseCodes } from "../dictionaries/encode.ts";
import type { Watch } from "../progress.ts";
import type { SiteName } from "../site.ts";

/** Bytes of codes that are kept by default: those of some ten thousand prefixes. */
const mostBytes = 2 ** 26;

interface SiteCodes {
  readonly codes: SparseCodes;
  /** The row in `codes` of each row of the capture, −1 where it was not encoded. */
  readonly place: Int32Array;
}

/**
 * Codes of a capture's activations, by site: those that were encoded for effects serve what asks for them afterwards. Sites whose codes do not fit are
 * left out.
 */
export class KeptCodes {
  readonly #sites = new Map<SiteName, SiteCodes>();
  #room: number;

  /** @param most bytes that may be kept */
  constructor(most = mostBytes) {
    this.#room = most;
  }

  /**
   * Keeps the codes of a site.
   *
   * @param rows the rows of the capture's activations that were encoded, in the order of the codes, each once
   * @param kept rows of the capture
   */
  keep(site: SiteName, codes: SparseCodes, rows: Iterable<number>, kept: number): void {
    const { features, values, offsets } = codes;
    const bytes = features.byteLength + values.byteLength + offsets.byteLength + 4 * kept;
    if (bytes > this.#room || this.#sites.has(site)) return;
    this.#room -= bytes;
    const place = new Int32Array(kept).fill(-1);
    let at = 0;
    for (const row of rows) place[row] = at++;
    this.#sites.set(site, { codes, place });
  }

  /** The codes of some rows of the capture, in their order, one as often as it is named; undefined where one is missing. */
  at(site: SiteName, rows: readonly number[]): SparseCodes | undefined {
    const known = this.#sites.get(site);
    if (known === undefined || rows.some((row) => known.place[row]! < 0)) return undefined;
    const { codes, place } = known;
    const offsets = new Int32Array(rows.length + 1);
    for (const [i, row] of rows.entries()) {
      const at = place[row]!;
      offsets[i + 1] = offsets[i]! + codes.offsets[at + 1]! - codes.offsets[at]!;
    }
    const size = offsets.at(-1)!;
    const features = new Int32Array(size);
    const values = newFloats(codes.values instanceof Float64Array ? "float64" : "float32", size);
    for (const [i, row] of rows.entries()) {
      const [from, to] = [codes.offsets[place[row]!]!, codes.offsets[place[row]! + 1]!];
      features.set(codes.features.subarray(from, to), offsets[i]!);
      values.set(codes.values.subarray(from, to), offsets[i]!);
    }
    return { rows: rows.length, offsets, features, values };
  }
}

/**
 * The codes of a dictionary at some forward nodes whose activations are kept, in their order: those that were kept, or encoded now.
 *
 * @throws StoppedError if asked to stop
 */
export async function codesAt(
  captured: Capture,
  dictionary: Dictionary,
  reader: CodeReader,
  nodes: readonly number[],
  kept?: KeptCodes,
  watch: Watch = {},
): Promise<SparseCodes> {
  const { row } = captured.plan;
  const rows = nodes.map((node) => row[node]!);
  const known = kept?.at(dictionary.reads, rows);
  if (known) return known;
  const { x, width: D } = await captured.site(dictionary.reads, watch);
  const gathered = x.slice(0, rows.length * D);
  for (const [i, at] of rows.entries()) gathered.set(x.subarray(at * D, (at + 1) * D), i * D);
  return reader.encode(dictionary, gathered, watch);
}
