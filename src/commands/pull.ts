import { stat } from "node:fs/promises";
import { join } from "node:path";
import { embeddedModel } from "../analysis/options.ts";
import { chooseSites, parseLayers } from "../analysis/sites.ts";
import { UsageError, UserError } from "../errors.ts";
import { blobPath, hasFile, repoFolder } from "../hub/cache.ts";
import { modelPreset, saePreset } from "../hub/presets.ts";
import { type PullPlan, pull, stoppable } from "../hub/pull.ts";
import { type ChooseSites, chosenSaes, planWant } from "../hub/resolve.ts";
import { type HubSettings, hubSettings } from "../hub/settings.ts";
import { folderWant, modelPlace, modelWant, parseHubPath, presetNames, presetWants, type Want } from "../hub/wants.ts";
import type { Reporter } from "../progress.ts";
import { parseKinds } from "../site.ts";

export interface PullRequest {
  /** Models and SAEs: presets, or `organisation/name[/folder][@revision]`. */
  readonly names: readonly string[];
  readonly layers: string | null;
  readonly sites: string | null;
  /** Branch, tag or commit of names that have none of their own; null for main. */
  readonly revision: string | null;
  /** Only says what there is to fetch. */
  readonly dry_run: boolean;
}

export interface PullOutcome {
  /** Whether the embedded model was among the names, which need not be fetched. */
  readonly embedded: boolean;
  /** With `dry_run`: what is there and what would be fetched. */
  readonly planned: {
    readonly cache: string;
    readonly files: readonly { readonly path: string; readonly bytes: number; readonly cached: boolean }[];
  } | null;
  /** What is in the cache now. */
  readonly fetched: readonly {
    readonly id: string;
    readonly files: number;
    readonly bytes: number;
    readonly folder: string;
  }[];
  /** Presets of SAEs for the models. */
  readonly saes: readonly { readonly name: string; readonly preset: string }[];
}

/** No model has so many blocks. */
const mostLayers = 1000;

/**
 * Fetches models and SAEs into the cache (`sfc pull`). The hub is asked also for what is cached, so that a branch that has moved on is fetched anew.
 *
 * @throws UserError if a name means nothing, or something cannot be had; StoppedError
 */
export async function pullNames(request: PullRequest, reporter: Reporter): Promise<PullOutcome> {
  const { layers, sites, dry_run } = request;
  const kinds = sites === null ? null : parseKinds(sites);
  const blocks = layers === null ? null : parseLayers(layers, mostLayers);
  const choose: ChooseSites = (there) => chooseSites(there, kinds, blocks);
  const settings = await hubSettings();
  const names = request.names.filter((name) => name !== embeddedModel);
  const fetched: PullOutcome["fetched"][number][] = [];
  let planned: PullOutcome["planned"] = null;
  const wants = names.flatMap((name) => wantsOf(name, request.revision, choose, settings));
  if (wants.length > 0 && settings.offline) {
    throw new UserError("sfc pull needs the network, but HF_HUB_OFFLINE is set. Unset it.");
  }
  await stoppable(settings, reporter, async (s) => {
    reporter.begin("listing", wants.length);
    const plans: PullPlan[] = [];
    for (const want of wants) {
      plans.push(await planWant(s, want));
      reporter.set(plans.length);
    }
    reporter.end();
    if (dry_run) {
      planned = { files: await filesOf(plans, settings), cache: settings.cache };
      return;
    }
    await pull(s, plans, reporter);
    fetched.push(...plans.map(({ id, files, folder }) => ({ id, files: files.length, bytes: sizeOf(files), folder })));
  });
  return {
    embedded: names.length < request.names.length,
    planned,
    fetched,
    saes: names.flatMap((name) => {
      const preset = modelPreset(name)?.saes;
      return preset ? [{ name, preset }] : [];
    }),
  };
}

function wantsOf(name: string, revision: string | null, choose: ChooseSites, settings: HubSettings): Want[] {
  const preset = saePreset(name);
  if (preset) {
    if (revision !== null) {
      throw new UsageError(
        `--revision: expected names of models or hub paths, got ${name}. Name its folder on the hub.`,
      );
    }
    return presetWants(chosenSaes(preset, choose), name);
  }
  const full = revision === null || name.includes("@") ? name : `${name}@${revision}`;
  if (modelPreset(full)) return [modelWant(modelPlace(full)!, full)];
  const place = parseHubPath(full);
  if (!place) {
    throw new UserError(
      `name: expected ${presetNames}, a preset of SAEs (sfc models lists them) or organisation/name of the hub, got "${name}". Check the name.`,
    );
  }
  const saes = folderWant(place, full, repoFolder(settings.cache, place.id), choose);
  return place.inner === "" ? [modelOrSaes(modelWant(place, full), saes)] : [saes];
}

/** A repository of a model, if it looks like one, else of SAEs. */
function modelOrSaes(model: Want, saes: Want): Want {
  const of = (there: readonly string[]) =>
    there.includes("config.json") && there.some((path) => /^(model|pytorch_model|tokenizer)\b/.test(path))
      ? model
      : saes;
  return {
    ...model,
    choose: (there) => of(there).choose(there),
    isTold: (cached) => of(cached).isTold(cached),
    refuse: (there, missing) => of(there).refuse(there, missing),
  };
}

const sizeOf = (files: PullPlan["files"]) => files.reduce((sum, file) => sum + file.size, 0);

async function filesOf(plans: readonly PullPlan[], { cache }: HubSettings) {
  const all: { path: string; bytes: number; cached: boolean }[] = [];
  for (const { id, listing, folder, files } of plans) {
    for (const file of files) {
      const there = await hasFile({ commit: listing.commit, folder, files: listing.files }, file.path);
      const blob = await stat(blobPath(cache, id, file)).catch(() => null);
      all.push({ path: join(id, file.path), bytes: file.size, cached: there || blob?.size === file.size });
    }
  }
  return all;
}
