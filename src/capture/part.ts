import type { Pack } from "../forest/packs.ts";
import { gradients } from "../graph/reverse.ts";
import { compile, type Session, type SessionOptions, type Sizes, type Value } from "../graph/session.ts";
import { times } from "../graph/shape.ts";
import { input, type Tensor } from "../graph/tensor.ts";
import { type Context, contextInputs, forward, type Model, type Tap, type Weights } from "../models/model.ts";
import { parseSite, type SiteName } from "../site.ts";
import { blockOf, type Floats, packInputs, packSessions, traceMetric } from "./passes.ts";
import { streamSite } from "./piece-graphs.ts";

/** An activation in another form: what the model goes on with, and tensors on the way there. */
export interface Form {
  /** y[N,D] in place of the activation. */
  readonly y: Tensor;
  /** Tensors whose values are given, by name. */
  readonly values?: Readonly<Record<string, Tensor>>;
  /** Tensors by which M is differentiated in backward packs, by name. */
  readonly wrt?: Readonly<Record<string, Tensor>>;
}

export interface PartOptions extends SessionOptions {
  readonly dtype?: "float32" | "float64";
  /** Sites in another form. */
  readonly forms?: ReadonlyMap<SiteName, (x: Tensor) => Form>;
  /**
   * Begins at a site, with what `enter` traces from inputs of its own, instead of at the tokens. A site inside a block also needs the input
   * `before`[N,D], the stream at the block's input (`streamBefore`).
   */
  readonly from?: { readonly site: SiteName; readonly enter: (context: Context) => Form };
}

/** What a run of a part gives: metric values [P], and the values and gradients of its forms as `<name>/<site>`. */
export interface PartResult {
  readonly metric: Floats;
  readonly values: ReadonlyMap<string, Floats>;
  readonly gradients: ReadonlyMap<string, Floats>;
}

/** A model, or what is left of it from a site on, with some activations in another form; compiled when first used. */
export interface Part {
  /** @param inputs those of the forms, and `before` where it is needed */
  run(pack: Pack, inputs: Readonly<Record<string, Value>>): Promise<PartResult>;
  release(): Promise<void>;
}

/** The site whose activations a part that begins at `site` needs as `before`; undefined where it needs none. */
export function streamBefore(site: SiteName): SiteName | undefined {
  const { kind, layer } = parseSite(site);
  return kind === "embed" || kind === "resid_post" ? undefined : streamSite(layer);
}

/** Traces a part of a model. Gradients are those of M = Σ weight·m over a backward pack's metric rows. */
export function tracePart(model: Model, weights: Weights, options: PartOptions): Part {
  const { dtype = "float32", forms, from } = options;
  const sessions = packSessions();

  const trace = (kind: Pack["kind"], n: number, sizes: Sizes): Promise<Session> => {
    const context = contextInputs(n, dtype);
    const outputs: Record<string, Tensor> = {};
    const wrt: Record<string, Tensor> = {};
    const enter = (site: SiteName, form: Form): Tensor => {
      for (const [name, value] of Object.entries(form.values ?? {})) outputs[`value/${name}/${site}`] = value;
      for (const [name, value] of Object.entries(form.wrt ?? {})) wrt[`gradient/${name}/${site}`] = value;
      return form.y;
    };
    const tap: Tap = (site, x) => {
      const form = forms?.get(site);
      return form ? enter(site, form(x)) : x;
    };
    const last =
      from === undefined
        ? forward(model, weights, context, tap)
        : forwardFrom(model, weights, context, from.site, enter(from.site, from.enter(context)), tap);
    const { metric, total } = traceMetric(model, weights, last);
    outputs.metric = metric;
    if (kind === "backward") {
      for (const [i, g] of gradients(total, Object.values(wrt)).entries()) outputs[Object.keys(wrt)[i]!] = g;
    }
    return compile(outputs, options, { sizes });
  };

  return {
    async run(pack, inputs) {
      const n = blockOf(pack);
      const session = sessions.get(pack, (sizes) => trace(pack.kind, n, sizes));
      const outputs = await (await session).run({ ...packInputs(pack, n, dtype), ...inputs });
      const named = (prefix: string) =>
        new Map(
          Object.entries(outputs)
            .filter(([name]) => name.startsWith(prefix))
            .map(([name, { data }]) => [name.slice(prefix.length), data as Floats]),
        );
      const metric = (outputs.metric!.data as Floats).subarray(0, pack.metric.row.length);
      return { metric, values: named("value/"), gradients: named("gradient/") };
    },
    release: () => sessions.release(),
  };
}

/** The model from a site on: `start` is what stands there. Of the site's own block only what does not lead to the site is computed. */
function forwardFrom(model: Model, w: Weights, context: Context, site: SiteName, start: Tensor, tap: Tap): Tensor {
  const { kind, layer } = parseSite(site);
  let x = start;
  if (streamBefore(site) !== undefined) {
    const before = input("before", start.dtype, [times(context.block, "B"), model.width]);
    x = model.block(w, layer, before, context, (at, y) => (at === site ? start : tap(at, y)));
  }
  for (let next = kind === "embed" ? 0 : layer + 1; next < model.layers; next++)
    x = model.block(w, next, x, context, tap);
  return x;
}
