import type { WebDevice } from "../../src/graph/session.web.ts";
import type { EffectsReference } from "../../src/live/parity.ts";
import type { LiveAnswer, LiveAsks, LiveKind } from "../../src/live/questions.ts";
import type { SiteName } from "../../src/site.ts";

/** What the site holds, as its build wrote it into site.json. Addresses are relative to the page. */
export interface Site {
  readonly model: { readonly name: string; readonly folder: string; readonly files: readonly SiteFile[] };
  /** The runtime's build for each device. */
  readonly runtime: Readonly<Record<WebDevice, { readonly mjs: string; readonly wasm: SiteFile }>>;
  readonly reference: EffectsReference;
}

export interface SiteFile {
  readonly path: string;
  readonly bytes: number;
}

/** What a worker is told: first what to open, then questions. */
export type ToWorker =
  | {
      readonly type: "open";
      readonly device: WebDevice;
      readonly threads: number;
      readonly site: Site;
      readonly base: string;
    }
  | { readonly type: "ask"; readonly id: number; readonly kind: LiveKind; readonly request: unknown };

/** What a worker says. */
export type FromWorker =
  | { readonly type: "loading"; readonly done: number; readonly total: number }
  | { readonly type: "checking" }
  | ({ readonly type: "ready" } & Ready)
  | { readonly type: "failed"; readonly error: string }
  | { readonly type: "answer"; readonly id: number; readonly answer: LiveAnswer & LiveAsks[LiveKind]["found"] }
  | { readonly type: "problem"; readonly id: number; readonly error: string };

/** What a device is like that computes what it should. */
export interface Ready {
  /** The largest difference of its effects from the reference's, as a share of the largest at its site. */
  readonly share: number;
  readonly site: SiteName | null;
  /** How large it may be. */
  readonly tolerance: number;
  /** What the reference's question took when it was asked a second time. */
  readonly seconds: number;
}
