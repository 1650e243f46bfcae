import { BlockReader, heldInputs } from "../capture/block-reader.ts";
import type { Capture } from "../capture/capture.ts";
import { type Floats, floatValue, newFloats } from "../capture/hooks.ts";
import { weightInputs } from "../capture/piece-graphs.ts";
import { streamSite } from "../capture/stream-sites.ts";
import { cleanRow, patchRow } from "../effects/rest.ts";
import { StoppedError } from "../errors.ts";
import { isChanged } from "../forest/forest.ts";
import { gradients, topological } from "../graph/reverse.ts";
import { int64, type Session, sessionPool, type Value } from "../graph/session.ts";
import { sameShape, times } from "../graph/shape.ts";
import { openStages, substitute } from "../graph/stages.ts";
import { concat, constant, input, numbers, type Tensor } from "../graph/tensor.ts";
import { isNormScale } from "../models/layers.ts";
import { type AttentionParts, type Context, contextInputs, type Model, type Weights } from "../models/model.ts";
import { isStreamed, type LoadedModel } from "../models/weights.ts";
import { parseSite, type SiteKind, type SiteName, siteName } from "../site.ts";

/**
 * A part of a layer in which each row is computed by itself: the stream → queries, keys and values side by side; what heads give (`attn_z`) →
 * `attn_out`; the stream and `attn_out` → `mlp_out`.
 */
export type RowPart = "heads" | "projection" | "mlp";

/** Queries, keys and values of a layer, and how its attention puts them together. */
export interface Heads extends Omit<AttentionParts, "q" | "k" | "v"> {
  /** [nodes·K, (H + 2·keyHeads)·E] of all backward nodes, a node's points side by side. */
  readonly values: Floats;
  /** E */
  readonly headWidth: number;
  /** Where queries, keys and values are r·y′ + b, r the scale of the norm before them and y′ linear in the stream: r [nodes·K], and y′ as `values`. */
  readonly scaled?: { readonly scale: Floats; readonly slope: Floats } | undefined;
}

/** Products with the transposed Jacobians of parts of layers, at K points between the clean and the patch activations of a node. */
export interface RowParts {
  heads(layer: number): Promise<Heads>;
  /**
   * Jᵀv at nodes[R]: the mean over the points for cotangents v[R,·] that are the same at all of them; `apart` each of these [R·K,·], a row's points side
   * by side; or the mean for cotangents of `each` point, [R·K,·].
   *
   * @param z of `projection`: what heads give at all backward nodes and points, [nodes·K,H·E]; by default what was captured, and what lies between
   * @throws StoppedError if asked to stop
   */
  pullBack(
    part: RowPart,
    layer: number,
    nodes: Int32Array,
    v: Floats,
    how: "mean" | "apart" | "each",
    z?: () => Floats,
  ): Promise<Floats>;
  /**
   * The same of scaled `heads`, mean over the points, from what their points have in common.
   *
   * @param t Σ_points r·v [R,·]
   * @param s ⟨v, y′⟩ of each point, [R·K]
   */
  pullBackScaled(layer: number, nodes: Int32Array, t: Floats, s: Floats): Promise<Floats>;
  /** Releases the sessions. */
  release(): Promise<void>;
}

/** Rows of a run, counted at each point: enough for efficient products, and few enough that what lies between them stays in the cache. */
export const runRows = 1024;

/** Numbers of the widest activation within an MLP that are computed at a time: a session holds several like it. */
export const nodeNumbers = 2 ** 22;

/**
 * Opens the parts of a model's layers. What depends on the activations of a node alone is computed once for all of its rows, and what depends on the
 * cotangent alone once for all points.
 *
 * @param captured with the streams, and attn_out and attn_z where they are asked for, at every clean prefix and at the patch prefixes of changed ones
 * @param points 0 is the clean activation, 1 the patch activation
 */
export function openRowParts(
  loaded: LoadedModel,
  captured: Capture,
  points: readonly number[],
  stopped?: () => boolean,
): RowParts {
  const { model, dtype, weights } = loaded;
  const { backward } = captured.plan.forest;
  const K = points.length;
  const longest = backward.position.reduce((most, position) => Math.max(most, position + 1), 1);
  /** Rows of a tile, of which packs have whole ones. */
  const n = Math.ceil(longest / K) * K;
  const padded = (rows: number) => Math.ceil(rows / n) * n;
  const perRun = Math.max(1, Math.floor(runRows / K));
  const pool = sessionPool(loaded);
  const reader = isStreamed(weights) ? new BlockReader(model, weights.checkpoint, loaded) : undefined;

  const trace = async (part: RowPart, layer: number) => {
    const { weights: tensors, names } = weightInputs(model, isStreamed(weights) ? "float32" : dtype, dtype);
    const traced = tracePart(part, model, tensors, layer, contextInputs(n, dtype));
    const values: Record<string, Value> = isStreamed(weights)
      ? await reader!.inputs(names)
      : await heldInputs(weights, names, loaded);
    /** Gives what tensors of the part depend on at some nodes, at all points. */
    const inputsOf = async (outputs: readonly Tensor[], z?: () => Floats) => {
      const needed = new Set(topological(outputs));
      const sites = [...traced.sites].flatMap(([site, leaf]) => (needed.has(leaf) ? [site] : []));
      const rows = await Promise.all(
        sites.map(async (site) => {
          const width = model.sites[parseSite(site).kind]!;
          const heads = parseSite(site).kind === "attn_z" ? z?.() : undefined;
          const x = heads ?? (await captured.site(site)).x;
          return (nodes: Int32Array, N: number): Record<string, Value> => {
            const data = heads
              ? copyRows(x, nodes, K * width, N * width)
              : pathRows(captured, x, width, nodes, points, N);
            return { [inputName(site)]: floatValue(data, N, width) };
          };
        }),
      );
      return (nodes: Int32Array): Record<string, Value> => {
        const N = padded(nodes.length * K);
        const positions = new Int32Array(N);
        nodes.forEach((node, i) => {
          positions.fill(backward.position[node]!, i * K, (i + 1) * K);
        });
        return Object.assign(
          { ...values, positions: int64(positions, N) },
          ...rows.map((of) => of(nodes, N)),
        ) as Record<string, Value>;
      };
    };
    return { ...traced, values, inputsOf };
  };

  /** Runs rows by blocks of nodes, and puts what is found for each row, `width` numbers, in its place. */
  const byNode = async (
    nodes: Int32Array,
    width: number,
    ofBlock: (nodes: Int32Array) => Promise<(rows: Int32Array, places: Int32Array) => Promise<Floats>>,
    perBlock = perRun,
  ): Promise<Floats> => {
    const out = newFloats(dtype, nodes.length * width);
    for (const block of nodeBlocks(nodes, perBlock)) {
      const run = await ofBlock(block.nodes);
      for (let begin = 0; begin < block.rows.length; begin += perRun) {
        if (stopped?.()) throw new StoppedError();
        const rows = block.rows.subarray(begin, begin + perRun);
        const found = await run(rows, block.places.subarray(begin, begin + perRun));
        for (let i = 0; i < rows.length; i++) copyRow(found, i, out, rows[i]!, width);
      }
    }
    return out;
  };

  /** Copies of some rows as an input of whole tiles, the copies of a row side by side. */
  const rowsValue = (v: Floats, rows: Int32Array, width: number, copies = 1): Value => {
    const N = padded(rows.length * copies);
    return floatValue(copyRows(v, rows, copies * width, N * width), N, width);
  };

  /** The same in an array that serves one run after another. */
  const rowsInput = (width: number) => {
    const room = newFloats(dtype, padded(perRun) * width);
    return (v: Floats, rows: Int32Array): Value => {
      const N = padded(rows.length);
      for (let i = 0; i < rows.length; i++) copyRow(v, rows[i]!, room, i, width);
      room.fill(0, rows.length * width, N * width);
      return floatValue(room.subarray(0, N * width), N, width);
    };
  };

  /** An array for results of rows that serves one run after another. */
  const rowsResult = (width: number) => {
    const room = newFloats(dtype, padded(perRun) * width);
    return (rows: Int32Array) => {
      const N = padded(rows.length);
      return { found: floatValue(room.subarray(0, N * width), N, width) };
    };
  };

  /** Jᵀv of a linear part, which is the same at all nodes and points. */
  const linearly = async (
    session: Session<string, "found">,
    values: Readonly<Record<string, Value>>,
    v: Floats,
    widthTo: number,
    width: number,
  ): Promise<Floats> => {
    const R = v.length / widthTo;
    const out = newFloats(dtype, R * width);
    for (let first = 0; first < R; first += n * tilesPerRun) {
      if (stopped?.()) throw new StoppedError();
      const rows = Math.min(R - first, n * tilesPerRun);
      const N = padded(rows);
      const own = v.subarray(first * widthTo, (first + rows) * widthTo);
      let given = own;
      if (N > rows) {
        given = newFloats(dtype, N * widthTo);
        given.set(own);
      }
      const { found } = await session.run({ ...values, cotangent: floatValue(given, N, widthTo) });
      out.set((found.data as Floats).subarray(0, rows * width), first * width);
    }
    return out;
  };
  const tilesPerRun = Math.max(1, Math.floor(runRows / n));

  return {
    async heads(layer) {
      const { from, to, leaves, attention, inputsOf } = await trace("heads", layer);
      const scaled = scaledMap(from, to, leaves);
      const session = await pool.compile<string>({
        values: to,
        ...(scaled && { scale: scaled.scale, slope: scaled.slope }),
      });
      const at = await inputsOf([to]);
      const found = new Map<string, Floats>();
      for (let first = 0; first < backward.size; first += perRun) {
        const nodes = Int32Array.from({ length: Math.min(perRun, backward.size - first) }, (_, i) => first + i);
        for (const [name, { data, shape }] of Object.entries(await session.run(at(nodes)))) {
          const width = K * shape[1]!;
          const all = found.get(name) ?? newFloats(dtype, backward.size * width);
          found.set(name, all);
          all.set((data as Floats).subarray(0, nodes.length * width), first * width);
        }
      }
      const { q, heads, keyHeads, scale, cap, window } = attention!;
      return {
        ...{ heads, keyHeads, scale, cap, window, headWidth: (q.shape[1] as number) / heads },
        values: found.get("values")!,
        scaled: scaled && { scale: found.get("scale")!, slope: found.get("slope")! },
      };
    },

    async pullBack(part, layer, nodes, v, how, z) {
      const traced = await trace(part, layer);
      const { from, to, leaves, context, values, inputsOf } = traced;
      const neurons = part === "mlp" ? scaledNeurons(traced, n, K) : undefined;
      if (neurons) {
        const ofNodes = await pool.compile(neurons.ofNodes);
        const ofRows = await pool.compile({ found: neurons.ofRows });
        const at = await inputsOf(Object.values(neurons.ofNodes));
        const [given, result] = [rowsInput(to.shape[1] as number), rowsResult(model.width)];
        return byNode(
          nodes,
          model.width,
          async (block) => {
            const tables = await ofNodes.run(at(block));
            return async (rows, places) => {
              const node = new Int32Array(padded(rows.length));
              node.set(places);
              const inputs = { cotangent: given(v, rows), node: int64(node, node.length) };
              return (await ofRows.run({ ...values, ...tables, ...inputs }, result(rows))).found.data as Floats;
            };
          },
          Math.min(perRun, Math.max(1, Math.floor(nodeNumbers / (K * neurons.width)))),
        );
      }
      const cotangent = input("cotangent", dtype, to.shape);
      const [back] = gradients(to, [from], cotangent) as [Tensor];
      const [widthTo, width] = [to.shape[1] as number, from.shape[1] as number];
      const isEach = how === "each";
      if (!isEach && !dependsOn(back, [...leaves, context.positions])) {
        const one = await linearly(await pool.compile({ found: back }), values, v, widthTo, width);
        return how === "apart" && K > 1 ? copyRows(one, repeatedRows(nodes.length, K), width, K * one.length) : one;
      }
      const stages = await openStages(
        pool,
        back,
        { node: [...leaves, context.positions], ...(!isEach && { row: [cotangent] }) },
        isEach ? [cotangent] : [],
        how === "apart" ? (x) => x : (x) => meanOver(x, n, K),
      );
      const at = await inputsOf([back], z);
      return byNode(nodes, how === "apart" ? K * width : width, async (block) => {
        const ofNodes = await stages.of("node", at(block));
        return async (rows, places) => {
          const q = { ...values, cotangent: rowsValue(v, rows, widthTo, isEach ? K : 1) };
          const ofRows = isEach ? q : await stages.of("row", q);
          const N = padded(rows.length * K);
          const [node, row] = [new Int32Array(N), new Int32Array(N)];
          for (let i = 0; i < rows.length * K; i++) {
            row[i] = Math.floor(i / K);
            node[i] = places[row[i]!]! * K + (i % K);
          }
          const gathered = { node_row: int64(node, N), row_row: int64(row, N) };
          return (await stages.last({ ...values, ...ofNodes, ...ofRows, ...gathered })).data as Floats;
        };
      });
    },

    async pullBackScaled(layer, nodes, t, s) {
      const { from, to, leaves, values, inputsOf } = await trace("heads", layer);
      const { gradient, back } = scaledMap(from, to, leaves)!;
      const N = from.shape[0] as string;
      const given = { t: input("t", dtype, to.shape), s: input("s", dtype, [N, K]) };
      const along = ofPoints("gradient", gradient, input("node", "int64", [N]), K)
        .mul(given.s.reshape(N, K, 1))
        .sum(1)
        .reshape(...from.shape);
      const ofNodes = await pool.compile({ gradient: byPoints(gradient, n, K) });
      const ofRows = await pool.compile({
        found: back(given.t)
          .add(along)
          .mul(1 / K),
      });
      const at = await inputsOf([gradient]);
      const [givenT, givenS, result] = [rowsInput(to.shape[1] as number), rowsInput(K), rowsResult(model.width)];
      return byNode(nodes, model.width, async (block) => {
        const tables = await ofNodes.run(at(block));
        return async (rows, places) => {
          const N = padded(rows.length);
          const [node, positions] = [new Int32Array(N), new Int32Array(N)];
          for (let i = 0; i < rows.length; i++) {
            node[i] = places[i]!;
            positions[i] = backward.position[nodes[rows[i]!]!]!;
          }
          const inputs = { t: givenT(t, rows), s: givenS(s, rows) };
          const about = { node: int64(node, N), positions: int64(positions, N) };
          return (await ofRows.run({ ...values, ...tables, ...inputs, ...about }, result(rows))).found.data as Floats;
        };
      });
    },

    async release() {
      await pool.release();
      reader?.release();
    },
  };
}

/** 0 K times, 1 K times, … */
const repeatedRows = (R: number, K: number) => Int32Array.from({ length: R * K }, (_, at) => Math.floor(at / K));

const inputName = (site: SiteName) => parseSite(site).kind;

/** A part of a layer, traced. */
interface TracedPart {
  /** [N,·] each: by what it is differentiated, and what it gives. */
  readonly from: Tensor;
  readonly to: Tensor;
  /** The inputs that are activations, named by their sites' kinds; by site, and by themselves. */
  readonly sites: ReadonlyMap<SiteName, Tensor>;
  readonly leaves: readonly Tensor[];
  readonly context: Context;
  readonly attention: AttentionParts;
  /** mlp_act [N,·] */
  readonly neurons: Tensor;
}

/** y = r·y′ + b of rows x: r[N,1] a scale of each row, y′ linear in x. So Jᵀt = r·y′ᵀt + ⟨t, y′⟩ ∂r/∂x. */
interface ScaledMap {
  readonly scale: Tensor;
  /** y′[N,·] */
  readonly slope: Tensor;
  /** ∂r/∂x [N,D] */
  readonly gradient: Tensor;
  /** y′ᵀt, which depends on no activation. */
  back(t: Tensor): Tensor;
}

/** What a norm of x and what is around it make of x, where that is linear but for the norm's scale; undefined where it is not, or there is none. */
function scaledMap(x: Tensor, y: Tensor, leaves: readonly Tensor[]): ScaledMap | undefined {
  const [scale, ...others] = topological([y]).filter((one) => isNormScale(one) && dependsOn(one, [x]));
  if (!scale || others.length > 0) return undefined;
  const at = (value: number) => {
    const fixed = constant(numbers([value], x.dtype), x.dtype, [1, 1]);
    return substitute(y, new Map([[scale, fixed]]));
  };
  const one = at(1);
  const back = (t: Tensor) => gradients(one, [x], t)[0]!;
  if (dependsOn(back(input("t", y.dtype, y.shape)), leaves)) return undefined;
  // The products with weights that y takes serve y′, too.
  const slope = (vanishes(y, scale) ? y : y.sub(at(0))).div(scale);
  return { scale, slope, gradient: gradients(scale.sum(), [x])[0]!, back };
}

/** Whether y is 0 where `factor` is, as far as single operations tell: where nothing is added to what it multiplies. */
function vanishes(y: Tensor, factor: Tensor): boolean {
  const zeros = new Set([factor]);
  for (const t of topological([y])) {
    if (t.source.kind !== "op") continue;
    const { op, inputs } = t.source;
    const [are, is] = [inputs.map((one) => zeros.has(one)), (some: readonly string[]) => some.includes(op)];
    if (
      (is(["Mul", "MatMul"]) && are.includes(true)) ||
      (is(["Add", "Sub", "Concat"]) && !are.includes(false)) ||
      (is(["Div", "Neg", "Reshape", "Transpose", "Slice"]) && are[0])
    )
      zeros.add(t);
  }
  return zeros.has(y);
}

/**
 * An MLP whose neurons follow each from its own numbers of a scaled map, and whose output is linear in them, or a scaled map of them where a norm stands
 * behind it: what is averaged over the points is computed of the nodes, and rows take it. Undefined for other MLPs. With the neurons' cotangents
 * u = r·U + ⟨v, y′⟩G at a point, of which U alone is the row's own, and y′ᵀ of the map before them:
 *
 *     Jᵀv = y′ᵀ(Σ slope·r U) + Σ ⟨along, u⟩ gradient + Σ ⟨v, y′⟩ y′ᵀ(slope G),   sums over the points
 */
function scaledNeurons({ from, to, leaves, neurons }: TracedPart, n: number, K: number) {
  const { dtype, shape } = to;
  const cotangent = input("cotangent", dtype, shape);
  const behind = scaledMap(neurons, to, leaves);
  const u = behind?.back(cotangent) ?? gradients(to, [neurons], cotangent)[0]!;
  const products = firstProducts(from, neurons);
  const map = scaledMap(from, concat(1, ...products), leaves);
  if (!map || dependsOn(u, leaves) || products.some((y) => !sameShape(y.shape, neurons.shape))) return undefined;
  const [N, M] = neurons.shape as [string, number];
  const slopes = gradients(neurons.sum(), products);
  const along = slopes
    .map((slope, p) => slope.mul(map.slope.slice(1, p * M, (p + 1) * M)))
    .reduce((sum, one) => sum.add(one));
  const steep = concat(1, ...slopes).mul(map.scale);
  const each = (x: Tensor) => concat(1, ...products.map(() => x));
  const scaled = (x: Tensor) => (behind ? x.mul(behind.scale) : x);
  const ofNodes: Record<string, Tensor> = {
    slope: meanOver(scaled(steep), n, K),
    along: byPoints(scaled(along), n, K),
    gradient: byPoints(map.gradient, n, K),
  };
  const node = input("node", "int64", [N]);
  /** Σ_points ⟨given[N,W], one table⟩ of the other table, mean over the points. */
  const carried = (given: Tensor, one: Tensor, name: string, other: string) =>
    ofPoints(other, from, node, K)
      .mul(
        ofPoints(name, one, node, K)
          .mul(given.reshape(N, 1, given.shape[1]!))
          .sum(-1),
      )
      .mean(1)
      .reshape(...from.shape);
  const slope = input("slope", dtype, ["C", products.length * M]).gather(node);
  let found = map.back(slope.mul(each(u))).add(carried(u, neurons, "along", "gradient"));
  if (behind) {
    const bent = map.back(steep.mul(each(behind.gradient))).add(map.gradient.mul(along.mul(behind.gradient).sum(-1)));
    Object.assign(ofNodes, { behind: byPoints(behind.slope, n, K), bent: byPoints(bent, n, K) });
    found = found.add(carried(cotangent, to, "behind", "bent"));
  }
  return { ofNodes, ofRows: found, width: products.length * M };
}

const dependsOn = (t: Tensor, leaves: readonly Tensor[]) => topological([t]).some((one) => leaves.includes(one));

/** The first products with weights on the way from x. */
function firstProducts(x: Tensor, to: Tensor): Tensor[] {
  const [before, behind] = [new Set([x]), new Set<Tensor>()];
  const products: Tensor[] = [];
  for (const t of topological([to])) {
    if (t.source.kind !== "op") continue;
    const [a, b] = t.source.inputs;
    if (t.source.inputs.some((one) => behind.has(one))) behind.add(t);
    else if (t.source.op === "MatMul" && before.has(a!) && !before.has(b!)) {
      products.push(t);
      behind.add(t);
    } else if (t.source.inputs.some((one) => before.has(one))) before.add(t);
  }
  return products;
}

/** [n·B,W] of which K points are side by side → [n·B/K,K·W]. */
const byPoints = (x: Tensor, n: number, K: number) => x.reshape(times(n / K, "B"), K * (x.shape[1] as number));

/** [n·B,W] → the mean over K points [n·B/K,W]. */
function meanOver(x: Tensor, n: number, K: number): Tensor {
  const [B, W] = [times(n / K, "B"), x.shape[1] as number];
  return x.reshape(B, K, W).mean(1).reshape(B, W);
}

/** What `byPoints` gave, at the nodes of N rows: [N,K,W] with the width of `like`. */
function ofPoints(name: string, { dtype, shape }: Tensor, node: Tensor, K: number): Tensor {
  const W = shape[1] as number;
  return input(name, dtype, ["C", K * W])
    .gather(node)
    .reshape(node.shape[0]!, K, W);
}

function tracePart(part: RowPart, model: Model, weights: Weights, layer: number, context: Context): TracedPart {
  const found = new Map<SiteKind, Tensor>();
  const inputs = new Map<SiteName, Tensor>();
  const inputAt = (site: SiteName, width: number) => {
    const made = input(inputName(site), context.dtype, [context.tokens.shape[0]!, width]);
    inputs.set(site, made);
    return made;
  };
  const at = (kind: SiteKind) => siteName({ kind, layer });
  const stream = streamSite(layer);
  let attention: AttentionParts | undefined;
  const attend = (parts: AttentionParts) => {
    attention = parts;
    return inputAt(at("attn_z"), parts.q.shape[1] as number);
  };
  model.block(weights, layer, inputAt(stream, model.width), { ...context, attend }, (site, value) => {
    const { kind } = parseSite(site);
    found.set(kind, value);
    return kind === "attn_out" ? inputAt(site, model.width) : value;
  });
  const neurons = found.get("mlp_act");
  if (!attention || !neurons) throw new Error(`internal: ${model.modelType} has no attention, or no MLP`);
  const { q, k, v } = attention;
  const [from, to] = {
    heads: [inputs.get(stream)!, concat(1, q, k, v)],
    projection: [inputs.get(at("attn_z"))!, found.get("attn_out")!],
    mlp: [inputs.get(stream)!, found.get("mlp_out")!],
  }[part] as [Tensor, Tensor];
  return { from, to, leaves: [...inputs.values()], sites: inputs, context, attention, neurons };
}

/** x_clean + α(x_patch − x_clean) [N,D] at some nodes and all points, a node's side by side; zeros behind them. */
function pathRows(
  captured: Capture,
  x: Floats,
  D: number,
  nodes: Int32Array,
  points: readonly number[],
  N: number,
): Floats {
  const out = new (x.constructor as new (n: number) => Floats)(N * D);
  const { backward } = captured.plan.forest;
  let at = 0;
  for (const node of nodes) {
    const clean = cleanRow(captured, node) * D;
    const patch = isChanged(backward, node) ? patchRow(captured, node) * D : clean;
    for (const α of points) {
      for (let d = 0; d < D; d++) out[at + d] = x[clean + d]! + α * (x[patch + d]! - x[clean + d]!);
      at += D;
    }
  }
  return out;
}

/** Some rows of a width, and zeros behind them up to a length. */
function copyRows(from: Floats, rows: Int32Array, width: number, length: number): Floats {
  const out = new (from.constructor as new (n: number) => Floats)(length);
  for (let i = 0; i < rows.length; i++) copyRow(from, rows[i]!, out, i, width);
  return out;
}

/** Copies one row: many short ones are copied faster so than by views of them. */
function copyRow(from: Floats, row: number, to: Floats, at: number, width: number): void {
  for (let d = 0, i = row * width, j = at * width; d < width; d++) to[j + d] = from[i + d]!;
}

/** Rows by their nodes, some nodes at a time. */
function* nodeBlocks(nodes: Int32Array, most: number) {
  const order = Int32Array.from(nodes.keys()).sort((a, b) => nodes[a]! - nodes[b]! || a - b);
  for (let begin = 0; begin < order.length; ) {
    const distinct: number[] = [];
    const places: number[] = [];
    let end = begin;
    for (; end < order.length; end++) {
      const node = nodes[order[end]!]!;
      if (distinct.at(-1) !== node) {
        if (distinct.length === most) break;
        distinct.push(node);
      }
      places.push(distinct.length - 1);
    }
    yield { nodes: Int32Array.from(distinct), rows: order.subarray(begin, end), places: Int32Array.from(places) };
    begin = end;
  }
}
