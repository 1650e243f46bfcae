import { UserError } from "../errors.ts";
import type { SiteName } from "../site.ts";
import type { Dictionary, Encoder } from "./dictionary.ts";

/**
 * What a graph needs of a dictionary to compute some features alone: f = `encoder`(x) [N,S], and f·`rows` [N,D], what they contribute to x. S counts the
 * picked features; of TopK, where every code depends on the others, all of them, and the rows of those that were not picked are 0.
 */
export interface Picked {
  readonly features: readonly number[];
  /** With the S columns alone: weight[D,S], bias[S], threshold[S]. */
  readonly encoder: Encoder;
  /** [S,D] */
  readonly rows: Float32Array | Float64Array;
  /** D, and S. */
  readonly width: number;
  readonly count: number;
  /** For each picked feature, its column among the S. */
  readonly column: readonly number[];
}

/** The dictionary at a site. @throws UserError if there is none */
export function dictionaryAt(dictionaries: ReadonlyMap<SiteName, Dictionary>, site: SiteName): Dictionary {
  const dictionary = dictionaries.get(site);
  if (dictionary) return dictionary;
  const there = [...dictionaries.keys()].join(", ");
  throw new UserError(`site: expected one with an SAE, got ${site}. There are SAEs at ${there}.`, {
    code: "not_found",
  });
}

/** Picks features of a dictionary: decoder rows of these alone are read. @throws UserError if it has no such feature */
export async function pickFeatures(dictionary: Dictionary, features: readonly number[]): Promise<Picked> {
  const encoder = await dictionary.encoder();
  const { outputWidth: D, featureCount: F, writes: site } = dictionary;
  const missing = features.find((feature) => !(Number.isInteger(feature) && feature >= 0 && feature < F));
  if (missing !== undefined) {
    throw new UserError(`feature: expected one from 0 to ${F - 1}, got ${missing} at ${site}.`, { code: "not_found" });
  }
  const rows = features.length === 0 ? new Float32Array(0) : await dictionary.decoderRows(features);
  if (encoder.activation.kind !== "topk") {
    return { features, encoder: columnsOf(encoder, features), rows, width: D, ...countOf(features.length) };
  }
  const all = new Float32Array(F * D);
  features.forEach((feature, s) => {
    all.set(rows.subarray(s * D, (s + 1) * D), feature * D);
  });
  return { features, encoder, rows: all, width: D, count: F, column: [...features] };
}

/** Some of the features that were picked. */
export function pickAgain(picked: Picked, features: readonly number[]): Picked {
  const { width: D, encoder } = picked;
  const placeOf = new Map(picked.features.map((feature, i) => [feature, picked.column[i]!]));
  const places = features.map((feature) => {
    const place = placeOf.get(feature);
    if (place === undefined) throw new Error(`internal: feature ${feature} was not picked`);
    return place;
  });
  const isTopK = encoder.activation.kind === "topk";
  const rows = new Float32Array((isTopK ? picked.count : features.length) * D);
  places.forEach((place, s) => {
    rows.set(picked.rows.subarray(place * D, (place + 1) * D), (isTopK ? place : s) * D);
  });
  if (isTopK) return { ...picked, features, rows, column: places };
  return { features, encoder: columnsOf(encoder, places), rows, width: D, ...countOf(features.length) };
}

const countOf = (count: number) => ({ count, column: Array.from({ length: count }, (_, s) => s) });

function columnsOf(encoder: Encoder, columns: readonly number[]): Encoder {
  const { weight, bias, activation } = encoder;
  const [F, S] = [bias.length, columns.length];
  const D = weight.length / F;
  const pick = (data: Float32Array) => Float32Array.from(columns, (i) => data[i]!);
  const picked = new Float32Array(D * S);
  for (let d = 0; d < D; d++) for (let s = 0; s < S; s++) picked[d * S + s] = weight[d * F + columns[s]!]!;
  return {
    ...encoder,
    weight: picked,
    bias: pick(bias),
    activation: activation.kind === "jumprelu" ? { ...activation, threshold: pick(activation.threshold) } : activation,
  };
}
