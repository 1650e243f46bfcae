import { codeRow, type SparseCodes } from "../dictionaries/encode.ts";

/** How much is kept of each feature. */
export interface ContextSizes {
  /** Windows of the largest codes. */
  readonly contexts: number;
  /** Tokens of a window at most. */
  readonly window: number;
}

/** A window of tokens around one at which a feature is active. */
export interface FeatureContext {
  readonly tokens: Int32Array;
  /** The feature's code at each token of the window; 0 at a row's first token, which is not encoded. */
  readonly codes: Float32Array;
  /** Place in the window of the token with the largest code of its row. */
  readonly top: number;
}

/** What is known of one feature after some text. */
export interface FeatureEvidence {
  readonly feature: number;
  /** Tokens at which its code is above 0. */
  readonly active: number;
  /** The largest code; 0 if it was never active. */
  readonly max: number;
  /** Bin i counts codes in [i · width, (i + 1) · width); null if it was never active. */
  readonly histogram: { readonly width: number; readonly counts: readonly number[] } | null;
  /** Tokens at which its code is the largest of a row, and in how many rows: the most frequent first, ties by the lower token. */
  readonly topTokens: readonly { readonly token: number; readonly rows: number }[];
  /** The largest codes first; of equal ones the earlier row. */
  readonly contexts: readonly FeatureContext[];
}

/** Bins of a histogram. Their width is a power of two, the smallest with which all codes fit: half of the bins or more are used. */
const bins = 32;
/** Tokens that are counted for each feature. With more different ones the counts of all may be too high, by at most the smallest of them. */
const counters = 64;

/** The part of a window that lies before its top token: two thirds. */
const before = ({ window }: ContextSizes) => Math.floor((2 * (window - 1)) / 3);

/**
 * Where the features of one site are active in a text, row by row: how often, how strongly, and in which contexts. Memory depends on the number of
 * features alone: the state is one buffer of fixed size, which makes a checkpoint.
 *
 * A row of text gives a feature at most one context, at its largest code. Contexts whose tokens up to the top token are the same count once, with the
 * largest code. Histogram, counts and contexts depend on the text alone, not on how it is cut into calls.
 */
export class SiteContexts {
  /** The features that are looked at, ascending. */
  readonly features: Int32Array;
  readonly #sizes: ContextSizes;
  /** Place of each feature of the dictionary in `features`, −1 for those that are not looked at. */
  readonly #placeOf: Int32Array;
  /** All that is found, in one piece. */
  readonly state: ArrayBuffer;
  readonly #active: Int32Array;
  readonly #max: Float32Array;
  /** Of the bins: a power of two, 0 before the first code. */
  readonly #width: Float32Array;
  readonly #bins: Int32Array;
  readonly #token: Int32Array;
  readonly #rows: Int32Array;
  readonly #kept: Int32Array;
  readonly #code: Float32Array;
  readonly #top: Int32Array;
  readonly #length: Int32Array;
  readonly #tokens: Int32Array;
  readonly #codes: Float32Array;
  /** Of the row at hand: the largest code of each feature and where it is, and which features have one. */
  readonly #rowMax: Float32Array;
  readonly #rowAt: Int32Array;

  /**
   * @param featureCount F of the dictionary
   * @param features those that are looked at; all by default
   */
  constructor(featureCount: number, sizes: ContextSizes, features?: readonly number[]) {
    this.features = Int32Array.from(features ?? Array.from({ length: featureCount }, (_, i) => i)).sort();
    this.#sizes = sizes;
    this.#placeOf = new Int32Array(featureCount).fill(-1);
    this.features.forEach((feature, place) => {
      this.#placeOf[feature] = place;
    });
    const n = this.features.length;
    this.state = new ArrayBuffer(stateBytes(n, sizes));
    let at = 0;
    const room = (count: number) => {
      at += 4 * count;
      return [this.state, at - 4 * count, count] as const;
    };
    const { contexts, window } = sizes;
    this.#active = new Int32Array(...room(n));
    this.#max = new Float32Array(...room(n));
    this.#width = new Float32Array(...room(n));
    this.#bins = new Int32Array(...room(n * bins));
    this.#token = new Int32Array(...room(n * counters));
    this.#rows = new Int32Array(...room(n * counters));
    this.#kept = new Int32Array(...room(n));
    this.#code = new Float32Array(...room(n * contexts));
    this.#top = new Int32Array(...room(n * contexts));
    this.#length = new Int32Array(...room(n * contexts));
    this.#tokens = new Int32Array(...room(n * contexts * window));
    this.#codes = new Float32Array(...room(n * contexts * window));
    this.#rowMax = new Float32Array(n);
    this.#rowAt = new Int32Array(n);
  }

  /**
   * Adds a row of text.
   *
   * @param tokens the row, T of them
   * @param codes those of its tokens from the second on are rows `first` to `first` + T − 2
   * @param from place of the first token that windows may show: 1 where a row begins with BOS, else 0
   */
  addRow(tokens: Int32Array, codes: SparseCodes, first: number, from: number): void {
    const touched: number[] = [];
    const { offsets, features, values } = codes;
    for (let t = 1; t < tokens.length; t++) {
      const end = offsets[first + t]!;
      for (let k = offsets[first + t - 1]!; k < end; k++) {
        const place = this.#placeOf[features[k]!]!;
        const value = Math.fround(values[k]!);
        if (place < 0 || !(value > 0)) continue;
        this.#count(place, value);
        if (this.#rowMax[place] === 0) touched.push(place);
        if (value > this.#rowMax[place]!) {
          this.#rowMax[place] = value;
          this.#rowAt[place] = t;
        }
      }
    }
    for (const place of touched) {
      const t = this.#rowAt[place]!;
      this.#countToken(place, tokens[t]!);
      this.#addContext(place, this.#rowMax[place]!, tokens, t, from, codes, first);
      this.#rowMax[place] = 0;
    }
  }

  /** What is known of each feature, in ascending order. */
  *evidence(): Generator<FeatureEvidence> {
    for (let place = 0; place < this.features.length; place++) yield this.#evidenceAt(place);
  }

  #evidenceAt(place: number): FeatureEvidence {
    const active = this.#active[place]!;
    const counts = [...this.#bins.subarray(place * bins, (place + 1) * bins)];
    const top = Array.from({ length: counters }, (_, i) => ({
      token: this.#token[place * counters + i]!,
      rows: this.#rows[place * counters + i]!,
    }));
    const { contexts, window } = this.#sizes;
    return {
      feature: this.features[place]!,
      active,
      max: this.#max[place]!,
      histogram:
        active === 0
          ? null
          : { width: this.#width[place]!, counts: counts.slice(0, counts.findLastIndex((n) => n > 0) + 1) },
      topTokens: top.filter(({ rows }) => rows > 0).sort((a, b) => b.rows - a.rows || a.token - b.token),
      contexts: Array.from({ length: this.#kept[place]! }, (_, i) => {
        const k = place * contexts + i;
        const length = this.#length[k]!;
        return {
          tokens: this.#tokens.slice(k * window, k * window + length),
          codes: this.#codes.slice(k * window, k * window + length),
          top: this.#top[k]!,
        };
      }),
    };
  }

  /** Counts a code: bins become twice as wide until it fits, two and two becoming one. */
  #count(place: number, value: number): void {
    this.#active[place]!++;
    if (value > this.#max[place]!) this.#max[place] = value;
    const width = this.#width[place]!;
    if (value < bins * width) this.#bins[place * bins + Math.floor(value / width)]!++;
    else this.#widen(place, value);
  }

  /** Counts a code that is beyond the last bin. */
  #widen(place: number, value: number): void {
    const at = place * bins;
    const need = widthFor(value);
    if (this.#width[place] === 0) this.#width[place] = need;
    for (; this.#width[place]! < need; this.#width[place]! *= 2) {
      for (let i = 0; i < bins; i++) {
        this.#bins[at + i] = i < bins / 2 ? this.#bins[at + 2 * i]! + this.#bins[at + 2 * i + 1]! : 0;
      }
    }
    this.#bins[at + Math.floor(value / need)]!++;
  }

  /** Counts a row's top token: exactly as long as there are counters, then in place of the rarest (Space-Saving, Metwally et al. 2005). */
  #countToken(place: number, token: number): void {
    const at = place * counters;
    let rarest = at;
    for (let i = at; i < at + counters; i++) {
      if (this.#rows[i]! === 0) {
        this.#token[i] = token;
        this.#rows[i] = 1;
        return;
      }
      if (this.#token[i] === token) {
        this.#rows[i]!++;
        return;
      }
      if (this.#rows[i]! < this.#rows[rarest]!) rarest = i;
    }
    this.#token[rarest] = token;
    this.#rows[rarest]!++;
  }

  #addContext(
    place: number,
    value: number,
    tokens: Int32Array,
    t: number,
    from: number,
    codes: SparseCodes,
    first: number,
  ): void {
    const { contexts, window } = this.#sizes;
    const at = place * contexts;
    let kept = this.#kept[place]!;
    if (kept === contexts && !(value > this.#code[at + contexts - 1]!)) return;
    const start = Math.max(from, t - before(this.#sizes));
    const length = Math.min(window, tokens.length - start);
    const same = this.#find(place, tokens, start, t);
    if (same >= 0) {
      if (!(value > this.#code[at + same]!)) return;
      for (let i = same; i < kept - 1; i++) this.#move(at + i + 1, at + i);
      kept--;
    }
    let i = Math.min(kept, contexts - 1);
    for (; i > 0 && value > this.#code[at + i - 1]!; i--) this.#move(at + i - 1, at + i);
    this.#kept[place] = Math.min(kept + 1, contexts);
    const k = at + i;
    this.#code[k] = value;
    this.#top[k] = t - start;
    this.#length[k] = length;
    const feature = this.features[place]!;
    for (let j = 0; j < length; j++) {
      this.#tokens[k * window + j] = tokens[start + j]!;
      this.#codes[k * window + j] = start + j === 0 ? 0 : codeOf(codes, first + start + j - 1, feature);
    }
  }

  /** Which of a feature's contexts has the same tokens up to the top token, −1 if none has. */
  #find(place: number, tokens: Int32Array, start: number, t: number): number {
    const { contexts, window } = this.#sizes;
    for (let i = 0; i < this.#kept[place]!; i++) {
      const k = place * contexts + i;
      if (this.#top[k] !== t - start) continue;
      let j = t - start;
      while (j >= 0 && this.#tokens[k * window + j] === tokens[start + j]) j--;
      if (j < 0) return i;
    }
    return -1;
  }

  /** Puts context k in the place of another. */
  #move(k: number, to: number): void {
    const { window } = this.#sizes;
    this.#code[to] = this.#code[k]!;
    this.#top[to] = this.#top[k]!;
    this.#length[to] = this.#length[k]!;
    this.#tokens.copyWithin(to * window, k * window, (k + 1) * window);
    this.#codes.copyWithin(to * window, k * window, (k + 1) * window);
  }
}

/** Bytes of the state of so many features. */
export function stateBytes(features: number, { contexts, window }: ContextSizes): number {
  return 4 * features * (4 + bins + 2 * counters + contexts * (3 + 2 * window));
}

/** A histogram of codes above 0, its bins as in evidence; null of none. */
export function histogramOf(codes: readonly number[]): FeatureEvidence["histogram"] {
  if (codes.length === 0) return null;
  const width = widthFor(codes.reduce((max, code) => Math.max(max, code), 0));
  const counts: number[] = [];
  for (const code of codes) {
    const bin = Math.floor(code / width);
    while (counts.length <= bin) counts.push(0);
    counts[bin]!++;
  }
  return { width, counts };
}

/** The smallest power of two of which so many bins hold a value. */
function widthFor(value: number): number {
  let width = 2 ** Math.ceil(Math.log2(value / bins));
  while (value >= bins * width) width *= 2;
  while (value < (bins * width) / 2) width /= 2;
  return width;
}

/** The code of one feature in a row; 0 where it is not active. */
function codeOf(codes: SparseCodes, row: number, feature: number): number {
  const { features, values } = codeRow(codes, row);
  let [low, high] = [0, features.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (features[middle]! < feature) low = middle + 1;
    else high = middle;
  }
  return features[low] === feature ? values[low]! : 0;
}
