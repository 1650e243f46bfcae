import type { Capture } from "../capture/capture.ts";
import { newFloats } from "../capture/hooks.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import type { CodeReader, SparseCodes } from "../dictionaries/encode.ts";
import type { Plan } from "../forest/packs.ts";
import type { Watch } from "../progress.ts";
import type { SiteName } from "../site.ts";
import { rowsOf } from "./node-rows.ts";
import { fitNodes } from "./unexplained.ts";

/** Bytes of codes that are kept by default: those of some ten thousand prefixes. */
const mostBytes = 2 ** 26;

/** The plan of a capture: of another one, rows are others. */
type CapturePlan = Pick<Plan, "rows">;

interface SiteCodes {
  readonly plan: CapturePlan;
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
   * @param plan of the capture
   * @param rows the rows of the capture's activations that were encoded, in the order of the codes, each once
   */
  keep(site: SiteName, plan: CapturePlan, codes: SparseCodes, rows: Iterable<number>): void {
    const { features, values, offsets } = codes;
    const bytes = features.byteLength + values.byteLength + offsets.byteLength + 4 * plan.rows;
    if (bytes > this.#room || this.#sites.has(site)) return;
    this.#room -= bytes;
    this.#sites.set(site, { plan, codes, place: placesOf(rows, plan.rows) });
  }

  /** The codes of some rows of the capture, in their order, one as often as it is named; undefined where one is missing. */
  at(site: SiteName, plan: CapturePlan, rows: readonly number[]): SparseCodes | undefined {
    const known = this.#sites.get(site);
    return known?.plan === plan ? picked(known.codes, known.place, rows) : undefined;
  }
}

/** The codes of some rows, of which `place` has the rows in `codes`, −1 for none; undefined where one is missing. */
function picked(codes: SparseCodes, place: Int32Array, rows: readonly number[]): SparseCodes | undefined {
  if (rows.some((row) => place[row]! < 0)) return undefined;
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

/** Where each row of a capture is in a list of some of them, −1 where it is not. */
function placesOf(rows: Iterable<number>, all: number): Int32Array {
  const place = new Int32Array(all).fill(-1);
  let at = 0;
  for (const row of rows) place[row] = at++;
  return place;
}

/**
 * The codes of a dictionary at some forward nodes whose activations are kept, in their order: those that were kept, or encoded now.
 *
 * A product's last digits depend on which rows go into it. So where codes may be kept, those that are not are encoded together with all that effects
 * need: a run that resumes finds the same bits as one that was not interrupted.
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
  const { plan } = captured;
  const rows = nodes.map((node) => plan.row[node]!);
  const known = kept?.at(dictionary.reads, plan, rows);
  if (known) return known;
  const own = await captured.site(dictionary.reads, watch);
  const { x, width: D } = own;
  const site = dictionary.writes;
  if (kept && hasPatches(captured, site)) {
    const needed = rowsOf(captured, own, captured.activeNodes(site), fitNodes(captured));
    const place = placesOf(needed.place.keys(), plan.rows);
    if (rows.every((row) => place[row]! >= 0)) {
      const codes = await reader.encode(dictionary, needed.rows, watch);
      kept.keep(site, plan, codes, needed.place.keys());
      return picked(codes, place, rows)!;
    }
  }
  const gathered = x.slice(0, rows.length * D);
  for (const [i, at] of rows.entries()) gathered.set(x.subarray(at * D, (at + 1) * D), i * D);
  return reader.encode(dictionary, gathered, watch);
}

/** Whether activations of the patch prefixes are kept, which effects need; scores of the clean prompts alone keep none. */
function hasPatches(captured: Capture, site: SiteName): boolean {
  const { row, forest } = captured.plan;
  return captured.activeNodes(site).every((node) => row[forest.backward.patch[node]!]! >= 0);
}
