import { memoryTables } from "../analysis/memory.ts";
import { type Job, newFloats } from "../capture/hooks.ts";
import { logitsOf } from "../capture/logits.ts";
import { runModel } from "../capture/run.ts";
import { streamSite } from "../capture/stream-sites.ts";
import type { SiteRanking } from "../circuit/ranking.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { effectsOf } from "../effects/dispatch.ts";
import type { MethodName } from "../effects/method.ts";
import { type EffectRows, errorFeature } from "../effects/rows.ts";
import { countPairs, nodesTable } from "../effects/sums.ts";
import { type PrefixForest, prefixForest } from "../forest/forest.ts";
import { planMetric } from "../forest/packs.ts";
import { mostProbable, softmax } from "../interventions/intervene.ts";
import type { LoadedModel } from "../models/weights.ts";
import type { Reporter, Watch } from "../progress.ts";
import { isOutside } from "../prompts/outside.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import type { Tokenizer } from "../prompts/tokenizer.ts";
import type { SiteName } from "../site.ts";
import { mean } from "../stats.ts";

/** A model and its SAEs that stay open from one question to the next. */
export interface LiveSetting {
  readonly loaded: LoadedModel;
  readonly tokenizer: Pick<Tokenizer, "token" | "outside">;
  readonly dictionaries: ReadonlyMap<SiteName, Dictionary>;
}

/** The token at which a feature has its largest effect. */
export interface Strongest {
  readonly position: number;
  readonly clean: string;
  readonly patch: string;
  /** The feature's code there, at the clean and at the patch prompt. */
  readonly f_clean: number;
  readonly f_patch: number;
}

/** A feature with its effect, in logits, mean over the pairs, signed. */
export interface RankedFeature {
  readonly feature: number;
  readonly effect: number;
  /** Nodes at which its code changes. */
  readonly nodes: number;
  readonly at: Strongest;
}

/** The effects of a site, in logits, mean over the pairs; BOS and padding left out. */
export interface RankedSite {
  readonly site: SiteName;
  /** Σ |effect| over features. */
  readonly importance: number;
  /** The error's effect. */
  readonly error: number | null;
  /** What features and error add up to, as a share of the metric's change. */
  readonly explained: number | null;
  /** The strongest, by |effect|. */
  readonly features: readonly RankedFeature[];
}

/** A token's probability to come next, after the clean and after the patch prompt. */
export interface NextOfPair {
  readonly token: number;
  readonly text: string;
  readonly clean: number;
  readonly patch: number;
}

/** A pair as the model reads it. */
export interface ReadPair {
  /** The prompts' tokens as text. */
  readonly clean: readonly string[];
  readonly patch: readonly string[];
  /** m at the clean and at the patch prompt, in logits: below 0 where the model prefers the clean answer. */
  readonly m_clean: number;
  readonly m_patch: number;
  /** The most probable next tokens after either prompt. */
  readonly next: readonly NextOfPair[];
}

/** What a few pairs show. */
export interface LiveFound {
  readonly pairs: readonly ReadPair[];
  /** Mean of m(patch) − m(clean), in logits. */
  readonly change: number;
  readonly sites: readonly RankedSite[];
}

/**
 * Effects of a few pairs, without what a whole run adds: no check of the forest, no intervals, nothing patched by itself.
 *
 * @param pairs all of one split
 * @throws UserError if a number is not finite; StoppedError if asked to stop
 */
export async function liveEffects(
  { loaded, tokenizer, dictionaries }: LiveSetting,
  pairs: readonly TokenPair[],
  { method, top }: { readonly method: MethodName; readonly top: number },
  { set, stopped }: Pick<Reporter, "set" | "stopped">,
): Promise<LiveFound> {
  const forest = prefixForest(pairs);
  const tables = memoryTables();
  const watch = { onProgress: set, stopped };
  await tables.writeNodes(
    nodesTable(forest, (id) => tokenizer.token(id)),
    tokenizer.outside,
  );
  let metric: readonly [clean: Float64Array, patch: Float64Array] | undefined;
  const onMetric = (clean: Float64Array, patch: Float64Array) => {
    metric = [clean, patch];
  };
  for await (const { rows } of effectsOf(method, { ...loaded, ...watch, forest, dictionaries, onMetric }))
    await tables.writeEffects(rows);
  if (!metric) throw new Error(`internal: ${method} told no metric`);
  const [m_clean, m_patch] = metric.map((of) => Array.from(forest.endIndexOfPair, (end) => of[end]!)) as [
    number[],
    number[],
  ];
  const change = mean(m_patch.map((m, i) => m - m_clean[i]!));
  const split = pairs[0]!.pair.split;
  const options = { sites: [...dictionaries.keys()], pairs: countPairs(pairs), score: "effect", top } as const;
  const { ranking } = await tables.rank({ ...options, change: { [split]: change } });
  const next = await nextTokens({ loaded, dictionaries, tokenizer }, pairs, watch);
  return {
    pairs: pairs.map(({ clean, patch }, i) => ({
      clean: clean.map((token) => tokenizer.token(token)),
      patch: patch.map((token) => tokenizer.token(token)),
      m_clean: m_clean[i]!,
      m_patch: m_patch[i]!,
      next: next[i]!,
    })),
    change,
    sites: ranking.sites.map((site) => rankedSite(site, split, tables.effects.get(site.site)!, forest, tokenizer)),
  };
}

function rankedSite(
  { site, splits }: SiteRanking,
  split: TokenPair["pair"]["split"],
  rows: EffectRows,
  { backward }: PrefixForest,
  { token, outside }: LiveSetting["tokenizer"],
): RankedSite {
  const { importance, error, explained, top } = splits[split]!;
  const strongest = new Map<number, number>();
  rows.feature.forEach((feature, i) => {
    const node = rows.node[i]!;
    if (feature === errorFeature || isOutside(outside, backward.token[node]!, backward.position[node]!)) return;
    const before = strongest.get(feature);
    if (before === undefined || Math.abs(rows.effect[i]!) > Math.abs(rows.effect[before]!)) strongest.set(feature, i);
  });
  return {
    site,
    importance,
    error,
    explained: explained ?? null,
    features: top.map(({ feature, effect, nodes_active }) => {
      const row = strongest.get(feature)!;
      const node = rows.node[row]!;
      return {
        feature,
        effect,
        nodes: nodes_active,
        at: {
          position: backward.position[node]!,
          clean: token(backward.token[node]!),
          patch: token(backward.patchToken[node]!),
          f_clean: rows.fClean[row]!,
          f_patch: rows.fPatch[row]!,
        },
      };
    }),
  };
}

/** Tokens of either distribution that are told. */
const likely = 10;

/** The most probable next tokens after each pair's clean and patch prompt. */
async function nextTokens(
  { loaded, tokenizer }: LiveSetting,
  pairs: readonly TokenPair[],
  watch: Watch,
): Promise<NextOfPair[][]> {
  const P = pairs.length;
  const prompts = (["clean", "patch"] as const).flatMap((of) =>
    pairs.map((pair) => ({ ...pair, clean: pair[of], patch: pair[of] })),
  );
  const forest = prefixForest(prompts);
  const D = loaded.model.width;
  const x = newFloats(loaded.dtype, prompts.length * D);
  const jobs = planMetric(forest).packs.map(
    (pack): Job => ({
      pack,
      found({ tensors }) {
        pack.metric.end.forEach((end, i) => {
          const row = pack.metric.row[i]!;
          const at = tensors.x!.subarray(row * D, (row + 1) * D);
          forest.endIndexOfPair.forEach((own, prompt) => {
            if (own === end) x.set(at, prompt * D);
          });
        });
        return undefined;
      },
    }),
  );
  await runModel(loaded, jobs, { ...watch, hooks: new Map([[streamSite(loaded.model.layers), {}]]) });
  const found: Float64Array[] = [];
  const V = loaded.model.vocabulary;
  for await (const { logits } of logitsOf(loaded, x)) {
    for (let at = 0; at < logits.length; at += V) found.push(softmax(logits.subarray(at, at + V)));
  }
  return pairs.map((_, pair) =>
    mostProbable(found[pair]!, found[P + pair]!, likely).map(({ token, before, after }) => ({
      token,
      text: tokenizer.token(token),
      clean: before,
      patch: after,
    })),
  );
}
