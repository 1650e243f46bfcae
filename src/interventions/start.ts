import {
  applyHook,
  type Entry,
  type Floats,
  floatValue,
  type Hooks,
  type Inputs,
  newFloats,
} from "../capture/hooks.ts";
import { streamLayer } from "../capture/stream-sites.ts";
import type { Pack, Plan } from "../forest/packs.ts";
import { times } from "../graph/shape.ts";
import { input } from "../graph/tensor.ts";
import { parseSite, type SiteName } from "../site.ts";

/** Where runs with ablated sites begin: at the first of them, before which nothing differs from the plain model. */
export interface Start {
  readonly site: SiteName;
  /** D */
  readonly width: number;
  /** What the plain model has at the clean tokens of a pack's rows [N,D]; at padding that of another row, since SAEs that normalise divide by it. */
  rowsOf(pack: Pack): Floats;
}

/** The site at which runs can begin: one of the residual stream before which no other lies; undefined where there is none. */
export function startOf(
  sites: readonly SiteName[],
  { plan, x }: { readonly plan: Plan; readonly x: ReadonlyMap<SiteName, Floats> },
): Start | undefined {
  const layerOf = (site: SiteName) => streamLayer(site) ?? parseSite(site).layer + 0.5;
  const site = sites.reduce<SiteName | undefined>((a, b) => (a && layerOf(a) <= layerOf(b) ? a : b), undefined);
  if (site === undefined || streamLayer(site) === undefined) return undefined;
  const values = x.get(site)!;
  const D = values.length / plan.rows;
  return {
    site,
    width: D,
    rowsOf({ node }) {
      const rows = newFloats(values instanceof Float64Array ? "float64" : "float32", node.length * D);
      const any = node.find((n) => n >= 0)!;
      node.forEach((n, row) => {
        const from = plan.row[plan.forest.backward.clean[n < 0 ? any : n]!]! * D;
        rows.set(values.subarray(from, from + D), row * D);
      });
      return rows;
    },
  };
}

/** What is run with hooks at all sites from a start on: its own hook is where the run enters. */
export function runFrom(
  start: Start | undefined,
  hooks: Hooks,
  dtype: "float32" | "float64",
): { readonly hooks: Hooks; readonly from?: Entry } {
  const own = start && hooks.get(start.site);
  if (!start || !own) return { hooks };
  const { site, width } = start;
  const { weights } = own;
  return {
    hooks: new Map([...hooks].filter(([other]) => other !== site)),
    from: {
      site,
      trace: (at) => applyHook(own, input(at.named("x"), dtype, [times(at.context.tileSize, "B"), width]), at),
      ...(weights && { weights }),
    },
  };
}

/** What a hook is given besides its own inputs where the run enters. */
export function startInputs(start: Start | undefined, site: SiteName, pack: Pack): Inputs {
  if (start?.site !== site) return {};
  return { x: floatValue(start.rowsOf(pack), pack.node.length, start.width) };
}
