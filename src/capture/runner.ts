import type { Watch } from "../progress.ts";
import type { SiteName } from "../site.ts";
import type { Entry, Floats, Found, Hooks, Job } from "./hooks.ts";
import type { Store } from "./store.ts";

export interface RunOptions {
  readonly hooks?: Hooks;
  readonly from?: Entry;
  /** M, of which backward packs give the gradients: Σ weight·m, or with `squares` Σ weight·(m − target)²; the former by default. */
  readonly objective?: Objective;
  /** Where what jobs keep goes, and of streamed weights what the work goes on from; in memory by default. */
  readonly store?: Store;
  /** Of streamed weights: rows that go through the model together, for which weights are read once forward and once backward. */
  readonly waveRows?: number;
}

export type Objective = "metric" | "squares";

/** How jobs are run. */
export interface Share extends Watch {
  /**
   * Which of the jobs are run, by their place in the list; all by default. Of the others nothing is told or found, and what is kept can be read once it
   * is in the store. Of streamed weights all jobs of a wave are run or none (see `wavesOf`).
   */
  readonly only?: ((job: number) => boolean) | undefined;
}

/** A model, or what is left of it from a site on, with hooks; compiled when first used. */
export interface Runner {
  /** Rows that are best given together: those of one pack, or of streamed weights of many, since weights are read once for all of them. */
  readonly rowsTogether: number;
  /**
   * Runs jobs. With a store what it has already is not computed again: the metric is told from there, and nothing is found.
   *
   * @throws StoppedError if asked to stop; finished parts stay in the store
   */
  run(jobs: readonly Job[], share?: Share): Promise<Results>;
  /** Ends its sessions. */
  release(): Promise<void>;
}

/** What jobs have kept, by their place in the list. */
export interface Results {
  /** Undefined where nothing was kept. */
  read(job: number, kind: Found["kind"], site: SiteName, name: string): Promise<Floats | undefined>;
}
