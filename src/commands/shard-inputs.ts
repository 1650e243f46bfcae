import { sha256OfList, sha256OfText } from "../bytes/sha256.ts";
import type { Dictionary } from "../dictionaries/dictionary.ts";
import { UserError } from "../errors.ts";
import { type Plan, packsJson } from "../forest/packs.ts";
import { steps, type Watch } from "../progress.ts";
import type { TokenPair } from "../prompts/pairs.ts";
import { inspectRunFolder } from "../results/folder.ts";
import { findShards, type ShardPlan, type ShardState, unfinished } from "../results/shards.ts";
import type { SiteName } from "../site.ts";

/** SHA-256 of pairs as the tokenizer made them. */
export const pairsIdentity = (pairs: readonly TokenPair[], watch: Watch = {}) =>
  sha256OfList(pairs, steps(watch, pairs.length));

/** SHA-256 of what goes into the model, pack by pack. */
export const packsIdentity = (plans: readonly Plan[]) => sha256OfText(JSON.stringify(packsJson(plans)));

/** What the packs of a capture that are kept depend on besides themselves. */
export function captureIdentity(
  model: string,
  sites: readonly SiteName[],
  weights: "held" | "streamed",
  plan?: Pick<ShardPlan, "wave_rows">,
): unknown[] {
  return [model, sites, weights === "streamed", ...(plan?.wave_rows ? [plan.wave_rows] : [])];
}

/** Which shards lack what, in words; null if they are all done. */
export function undoneText(states: readonly ShardState[]): string | null {
  const packs = unfinished(states, "packs");
  const sites = unfinished(states, "sites");
  const lacking = (shards: readonly number[], what: string) =>
    shards.length === 0 ? [] : [`${shards.length > 1 ? "shards" : "shard"} ${shards.join(", ")} without ${what}`];
  const parts = [...lacking(packs, "packs"), ...lacking(sites, "sites")];
  return parts.length === 0 ? null : parts.join(" and ");
}

/** The error where shards of a run are asked for that is not divided. */
export const notDivided = (path: string) =>
  new UserError(
    `run: expected one that is planned as shards, got none in ${path}. Plan it: sfc run --shards N --output_dir ${path}, with the flags of the run.`,
    { code: "not_found" },
  );

/**
 * The folder from which a divided run's options name files: where `sfc run --shards` was called.
 *
 * @throws UserError if there is no such run
 */
export async function plannedIn(folder: string): Promise<string> {
  const divided = await findShards(folder);
  if (divided !== null) return divided.plan.folder;
  if ((await inspectRunFolder(folder)).state === "complete") return process.cwd();
  throw notDivided(folder);
}

/** Compares what a process has with the plan of a run's shards, piece by piece, so that what takes long to hash comes last. */
export class PlanCheck {
  readonly #plan: ShardPlan;
  readonly #what: string;
  readonly #path: string;

  /**
   * @param what the work that is refused if something differs
   * @param path the run's folder
   */
  constructor(plan: ShardPlan, what: string, path: string) {
    this.#plan = plan;
    this.#what = what;
    this.#path = path;
  }

  /** @throws UserError if the program or what it computes with has another version */
  versions(here: Readonly<Record<string, string>>): void {
    const planned = this.#plan.versions;
    const names = [...new Set([...Object.keys(planned), ...Object.keys(here)])];
    const others = names.filter((name) => planned[name] !== here[name]);
    if (others.length === 0) return;
    const said = (of: Readonly<Record<string, string>>) =>
      others.map((name) => `${name} ${of[name] ?? "missing"}`).join(", ");
    throw new UserError(
      `${this.#what}: expected ${said(planned)} as planned, got ${said(here)} for ${this.#path}. Use the same program everywhere, or plan the shards again with it.`,
      { code: "changed_input" },
    );
  }

  /** @throws UserError if it is another build of this version */
  program(sha256: string): void {
    this.#same("build of sfc", this.#plan.inputs.program, sha256);
  }

  /** @throws UserError if the pairs or the packs that they make are others */
  pairs(pairs: readonly TokenPair[], plans: readonly Plan[]): void {
    this.#same("pairs", this.#plan.inputs.pairs, pairsIdentity(pairs));
    this.#same("packs", this.#plan.inputs.packs, packsIdentity(plans));
  }

  /** @throws UserError if the model is another */
  model(sha256: string): void {
    this.#same("model", this.#plan.inputs.model, sha256);
  }

  /** @throws UserError if a site's SAE is another */
  async dictionaries(dictionaries: ReadonlyMap<SiteName, Dictionary>): Promise<void> {
    const { dictionaries: planned } = this.#plan.inputs;
    for (const [site, dictionary] of dictionaries) {
      this.#same(`SAE at ${site}`, planned[site], await dictionary.sha256());
    }
  }

  #same(what: string, planned: string | undefined, here: string): void {
    if (planned === here) return;
    const hash = (of: string | undefined) => (of === undefined ? "none" : `${of.slice(0, 12)}…`);
    throw new UserError(
      `${this.#what}: expected the ${what} of the plan (${hash(planned)}), got another (${hash(here)}) for ${this.#path}. Bring back what was planned, or plan the shards again.`,
      { code: "changed_input" },
    );
  }
}
