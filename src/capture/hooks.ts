import type { Pack } from "../forest/packs.ts";
import type { Value } from "../graph/session.ts";
import type { Tensor, TypedData } from "../graph/tensor.ts";
import type { Context } from "../models/model.ts";
import type { SiteName } from "../site.ts";

export type Floats = Float32Array | Float64Array;

/** What a hook makes of the activation at its site. */
export interface Hooked {
  /** y[N,D]: what the model goes on with; `x.detach()` is the same values through which no gradient passes. */
  readonly y: Tensor;
  /** The same numbers as y, where they are known without what y is computed from, which then is computed for gradients alone. */
  readonly known?: Tensor;
  /** Tensors whose values are read, by name. */
  readonly values?: Readonly<Record<string, Tensor>>;
  /** Tensors by which M is differentiated in backward packs, by name. */
  readonly wrt?: Readonly<Record<string, Tensor>>;
  /** Tensors that are differentiated too: in backward packs gradients are those of M + Σ ⟨cotangent, tensor⟩. */
  readonly targets?: readonly { readonly tensor: Tensor; readonly cotangent: Tensor }[];
}

/** What a hook knows of the graph into which it is traced. */
export interface Place {
  readonly context: Context;
  /** What an input of the hook is called in the graph; the values that it gets go by its plain name. */
  named(input: string): string;
}

/** Looks at the activation of a site, or puts another in its place. Without `trace` x is read as `x`, and so is ∂M/∂x in backward packs. */
export interface Hook {
  /** What the model goes on with, and what is read, at x[N,D]. */
  readonly trace?: (x: Tensor, at: Place) => Hooked;
  /** Inputs that are the same for all packs, by plain name; asked for when the work comes to the site. */
  readonly weights?: () => Promise<Inputs>;
}

/** Where the work begins instead of at the tokens. Without `trace` the site's activation is the input `x`[N,D], and ∂M/∂x is found as `x`. */
export interface Entry {
  readonly site: SiteName;
  /** What stands at the site. */
  readonly trace?: (at: Place) => Hooked;
  /** Inputs that are the same for all packs, by plain name. */
  readonly weights?: () => Promise<Inputs>;
}

export type Inputs = Readonly<Record<string, Value>>;
export type Hooks = ReadonlyMap<SiteName, Hook>;

/** What a hook has found in a pack: all values of its site at once, those of the rows beside the pack's, and in backward packs all gradients. */
export interface Found {
  readonly site: SiteName;
  readonly kind: "value" | "beside" | "gradient";
  /** Numbers by their names in `values` or `wrt`; `x` without `trace`. */
  readonly tensors: Tensors;
}

export type Tensors = Readonly<Record<string, Floats>>;

/** A pack on its way through the model, with all that hooks want to know of it and what becomes of the results. */
export interface Job {
  readonly pack: Pack;
  /** Inputs of a site's hook, or of the entry, for this pack; asked for when the work comes there, perhaps twice. */
  inputs?(site: SiteName): Inputs | Promise<Inputs>;
  /** Of an entry inside a block: the residual stream [N,D] at the block's input. */
  before?(): Floats;
  /** Called with all that hooks find. What is returned is kept in the store. */
  found?(found: Found): Tensors | undefined;
  /** Called with m[P] at the pack's metric rows, then those of the pack beside it, in logits. */
  metric?(values: Floats): void;
}

/** The hook that reads x and ∂M/∂x. */
export const reads: Hook = {};

/** Hooks that read x and ∂M/∂x at some sites. */
export function readingHooks(sites: readonly SiteName[]): Hooks {
  return new Map(sites.map((site) => [site, reads]));
}

/** Inputs by the names that they have in the graph. */
export function namedInputs(inputs: Inputs | undefined, named: Place["named"]): Record<string, Value> {
  return Object.fromEntries(Object.entries(inputs ?? {}).map(([name, value]) => [named(name), value]));
}

/** What a hook makes of an activation, with or without `trace`. */
export function applyHook({ trace }: Hook, x: Tensor, at: Place): Hooked {
  return trace ? trace(x, at) : { y: x, values: { x }, wrt: { x } };
}

/** Numbers of the type that is computed in. */
export const newFloats = (dtype: "float32" | "float64", length: number): Floats =>
  dtype === "float64" ? new Float64Array(length) : new Float32Array(length);

/** Numbers as a value, by rows. */
export function floatValue(data: Floats, ...shape: number[]): Value {
  return { dtype: data instanceof Float64Array ? "float64" : "float32", data: data as TypedData, shape };
}
