import { Random } from "../random.ts";
import type { Split } from "./pairs.ts";

/** What decides into which half a pair goes. */
export interface Halved {
  readonly clean_prefix: string;
  readonly patch_prefix: string | null;
  readonly case: string;
}

/**
 * Seeded halves of pairs in which no prompt, clean or patch, is in both: pairs that share one, directly or through others, stay together. Every case
 * is spread over both halves as evenly as that allows; one that has at least two such groups is in both, except where groups of several cases make
 * this impossible. A single group is all train.
 *
 * @returns the split of each pair
 */
export function halves(pairs: readonly Halved[], seed: number | string): Split[] {
  const groups = sharing(pairs);
  const shuffled = new Random(`${seed}/halves`).shuffled(groups);
  // Large groups first; the seed decides among equals.
  const ordered = shuffled.sort((a, b) => b.length - a.length);
  const balance = new Balance(pairs, ordered);
  for (const g of ordered.keys()) balance.put(g, balance.cost(g, 1) <= balance.cost(g, -1) ? 1 : -1);
  balance.repair();
  const splits = new Array<Split>(pairs.length);
  ordered.forEach((group, g) => {
    for (const p of group) splits[p] = balance.side(g) > 0 ? "train" : "test";
  });
  return splits;
}

/** How pairs stand between train (+1) and test (−1), by case and all together. */
class Balance {
  readonly #sides: Int8Array;
  /** Pairs of each case in each group; case 0 stands for all. */
  readonly #counts: readonly ReadonlyMap<number, number>[];
  /** Train minus test. */
  readonly #difference: number[];
  /** Groups of each case on either side. */
  readonly #groups: { train: number; test: number }[];

  constructor(pairs: readonly Halved[], groups: readonly (readonly number[])[]) {
    const ids = new Map<string, number>();
    this.#counts = groups.map((group) => {
      const counts = new Map([[0, group.length]]);
      for (const p of group) {
        const name = pairs[p]!.case;
        const id = ids.get(name) ?? ids.size + 1;
        ids.set(name, id);
        counts.set(id, (counts.get(id) ?? 0) + 1);
      }
      return counts;
    });
    this.#sides = new Int8Array(groups.length);
    this.#difference = new Array(ids.size + 1).fill(0);
    this.#groups = Array.from({ length: ids.size + 1 }, () => ({ train: 0, test: 0 }));
  }

  side(group: number): number {
    return this.#sides[group]!;
  }

  put(group: number, side: 1 | -1): void {
    const before = this.#sides[group]!;
    for (const [id, n] of this.#counts[group]!) {
      this.#difference[id]! += (side - before) * n;
      const there = this.#groups[id]!;
      if (before !== 0) there[before > 0 ? "train" : "test"]--;
      there[side > 0 ? "train" : "test"]++;
    }
    this.#sides[group] = side;
  }

  /** Σ over cases of the squared difference, of those that the group bears on, if it were on that side. */
  cost(group: number, side: 1 | -1): number {
    let cost = 0;
    for (const [id, n] of this.#counts[group]!) {
      cost += (this.#difference[id]! + (side - this.#sides[group]!) * n) ** 2;
    }
    return cost;
  }

  /** Cases with several groups that are all on one side. */
  #missing(ids: Iterable<number>): number {
    let missing = 0;
    for (const id of ids) {
      const { train, test } = this.#groups[id]!;
      if (train + test > 1 && (train === 0 || test === 0)) missing++;
    }
    return missing;
  }

  /** Moves groups to the other side while that brings a case into both halves, or else makes them more even. */
  repair(): void {
    for (let round = 0, moved = true; moved && round < 50; round++) {
      moved = false;
      for (let g = 0; g < this.#sides.length; g++) {
        const cases = [...this.#counts[g]!.keys()];
        const side = this.#sides[g] as 1 | -1;
        const [missing, cost] = [this.#missing(cases), this.cost(g, side)];
        const other = side > 0 ? -1 : 1;
        const costThere = this.cost(g, other);
        if (missing === 0 && costThere >= cost) continue;
        this.put(g, other);
        const missingThere = this.#missing(cases);
        if (missingThere < missing || (missingThere === missing && costThere < cost)) moved = true;
        else this.put(g, side);
      }
    }
  }
}

/** Connected components of pairs, two being connected if they share a prompt, as indices of pairs. */
function sharing(pairs: readonly Halved[]): number[][] {
  const ids = new Map<string, number>();
  const parent: number[] = [];
  const idOf = (prompt: string) => {
    const known = ids.get(prompt);
    if (known !== undefined) return known;
    parent.push(ids.size);
    ids.set(prompt, ids.size);
    return ids.size - 1;
  };
  const root = (prompt: number): number => {
    let at = prompt;
    while (parent[at] !== at) {
      // Halves the path, so that long chains stay short.
      parent[at] = parent[parent[at]!]!;
      at = parent[at]!;
    }
    return at;
  };
  const clean = pairs.map((pair) => {
    const id = idOf(pair.clean_prefix);
    if (pair.patch_prefix !== null) parent[root(id)] = root(idOf(pair.patch_prefix));
    return id;
  });
  const groups = new Map<number, number[]>();
  clean.forEach((id, p) => {
    const at = root(id);
    const group = groups.get(at);
    if (group === undefined) groups.set(at, [p]);
    else group.push(p);
  });
  return [...groups.values()];
}
