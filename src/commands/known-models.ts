import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { embeddedModel } from "../analysis/options.ts";
import { readRegular } from "../bytes/file.node.ts";
import { cachedSnapshot, hasFile } from "../hub/cache.ts";
import { modelPresets, saeBytes, saePresets } from "../hub/presets.ts";
import { inCache } from "../hub/resolve.ts";
import { hubSettings } from "../hub/settings.ts";
import { modelPlace, modelWant } from "../hub/wants.ts";
import { modelTypes } from "../models/architectures.ts";
import { parseSite, siteKinds } from "../site.ts";
import { packageRoot } from "../storage/package.ts";

/** What can be run, and what of it is on this machine. */
export interface KnownModels {
  readonly cache: string;
  readonly endpoint: string;
  readonly models: readonly {
    /** What --model_name takes. */
    readonly name: string;
    /** Null for the embedded model. */
    readonly repo: string | null;
    readonly parameters: string;
    readonly gated: boolean;
    /** The SAEs that are used where none are named: a preset, or `saes` in the model's folder. */
    readonly saes: string | null;
    /** Whether all its files are on this machine. */
    readonly cached: boolean;
    /** Bytes of those that are. */
    readonly bytes: number;
    readonly folder: string | null;
  }[];
  readonly saes: readonly {
    /** What --sae_source takes. */
    readonly name: string;
    readonly model: string;
    readonly kinds: readonly string[];
    readonly features: number;
    readonly count: number;
    /** Bytes of all together. */
    readonly bytes: number;
    /** How many are on this machine. */
    readonly cached: number;
  }[];
  /** Other models that are cached, by their repositories. */
  readonly others: readonly { readonly name: string; readonly model_type: string; readonly folder: string }[];
}

/** What is known and what is cached (`sfc models`), without the network. */
export async function knownModels(): Promise<KnownModels> {
  const settings = await hubSettings();
  const { cache, endpoint } = settings;
  const embedded: KnownModels["models"][number] = {
    name: embeddedModel,
    repo: null,
    parameters: "2.9 M",
    gated: false,
    saes: "saes",
    cached: true,
    bytes: (await stat(`${packageRoot}models/${embeddedModel}/model.safetensors`)).size,
    folder: `${packageRoot}models/${embeddedModel}`,
  };
  const models = [embedded];
  for (const preset of modelPresets) {
    const want = modelWant(modelPlace(preset.name)!, preset.name);
    const { snapshot, lacks } = await inCache(want, settings);
    const sizes = await Promise.all(
      want.choose(snapshot ? await readdir(snapshot.folder) : []).wanted.map(async (path) => {
        return (await stat(join(snapshot!.folder, path)).catch(() => null))?.size ?? 0;
      }),
    );
    models.push({
      ...preset,
      cached: snapshot !== undefined && lacks === undefined,
      bytes: sizes.reduce((sum, size) => sum + size, 0),
      folder: snapshot?.folder ?? null,
    });
  }
  return {
    cache,
    endpoint,
    models,
    saes: await Promise.all(saePresets.map((preset) => describeSaes(preset, cache))),
    others: await otherModels(cache),
  };
}

async function describeSaes(preset: (typeof saePresets)[number], cache: string) {
  const { name, model, features, inputWidth, saes } = preset;
  const repos = [...new Set(saes.map(({ repo }) => repo))];
  const snapshots = new Map(
    await Promise.all(repos.map(async (repo) => [repo, await cachedSnapshot(cache, repo, "main")] as const)),
  );
  let cached = 0;
  for (const { repo, files } of saes) {
    const snapshot = snapshots.get(repo);
    if (!snapshot) continue;
    const there = await Promise.all(files.map((path) => hasFile(snapshot, path)));
    if (there.every(Boolean)) cached++;
  }
  const bytes = saes.reduce((sum, { site }) => sum + saeBytes(inputWidth[parseSite(site).kind]!, features), 0);
  const kinds = siteKinds.filter((kind) => inputWidth[kind] !== undefined);
  return { name, model, kinds, features, count: saes.length, bytes, cached };
}

async function otherModels(cache: string): Promise<KnownModels["others"]> {
  const found: { name: string; model_type: string; folder: string }[] = [];
  for (const entry of await readdir(cache).catch(() => [])) {
    const name = /^models--(.+)$/.exec(entry)?.[1]?.replaceAll("--", "/");
    if (name === undefined || modelPresets.some(({ repo }) => repo === name)) continue;
    const folder = (await cachedSnapshot(cache, name, "main"))?.folder;
    const text =
      folder &&
      (await readRegular(join(folder, "config.json"))
        .then(String)
        .catch(() => null));
    const type = text ? modelType(text) : undefined;
    if (folder && type !== undefined) found.push({ name, model_type: type, folder });
  }
  return found;
}

/** The model_type in a config.json, if it is one that can be run. */
function modelType(text: string): string | undefined {
  try {
    return modelTypes.find((type) => type === (JSON.parse(text) as { model_type?: unknown } | null)?.model_type);
  } catch {
    return undefined;
  }
}
