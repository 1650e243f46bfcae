import type { MethodName } from "../effects/method.ts";
import type { LiveFound } from "../live/effects.ts";
import type {
  CircuitRequest,
  EffectsRequest,
  Intervened,
  InterveneRequest,
  LiveAnswer,
  ModelChoice,
  OpenedModel,
  TypedPair,
} from "../live/questions.ts";
import type { TaskName } from "../prompts/english/tasks.ts";
import type { Split } from "../prompts/pairs.ts";
import type { ReportCircuit } from "../report/circuit.ts";
import type { EffectRow } from "../results/read-run.ts";
import type { SiteName } from "../site.ts";

/** A run or a comparison in the folder that is served. */
export interface FolderItem {
  /** Its path inside the folder, with slashes; "." where the folder itself is one. */
  readonly name: string;
  readonly kind: "run" | "comparison";
  /** `finished`, or what its folder says of itself. */
  readonly status: string;
  readonly model: string;
  readonly task: string;
  /** The method, or the methods that are compared. */
  readonly method: string;
  readonly pairs: number;
  readonly sites: readonly SiteName[];
  /** Rows of effects.parquet; null for comparisons. */
  readonly rows: number | null;
  /** When it began, in ISO 8601; null where that is not kept. */
  readonly started: string | null;
  readonly seconds: number;
  /** Random directions in place of SAEs. */
  readonly dummy: boolean;
  readonly report: boolean;
}

/** What a folder holds. */
export interface FolderListing {
  readonly folder: string;
  readonly items: readonly FolderItem[];
  /** Folders that look like runs or comparisons and cannot be shown, with the reason. */
  readonly problems: readonly { readonly name: string; readonly reason: string }[];
}

/** What live work there can be, and what is open. */
export interface LiveState {
  readonly models: readonly ModelChoice[];
  readonly open: OpenedModel | null;
  /** Questions that wait for their turn, the one that is being answered included. */
  readonly waiting: number;
}

/** Which rows of a run's effects.parquet; what is left out is not restricted. */
export interface RowsRequest {
  /** The name of a `FolderItem`. */
  readonly run: string;
  readonly site?: SiteName | undefined;
  readonly split?: Split | undefined;
  readonly case?: string | undefined;
  /** −1 for the error. */
  readonly feature?: number | undefined;
  /** Rows in front that are left out, those of the largest |effect| first. */
  readonly offset: number;
  readonly limit: number;
}

/** A row of effects.parquet with its tokens: codes and gradient are null for the error. */
export interface ShownRow extends EffectRow {
  readonly token: string;
  readonly patch_token: string;
}

export interface RowsPage {
  readonly rows: readonly ShownRow[];
  /** Rows that the request matches, and that the file has. */
  readonly matching: number;
  readonly all: number;
  /** What there is to choose from. */
  readonly sites: readonly SiteName[];
  readonly splits: readonly Split[];
  readonly cases: readonly string[];
  readonly seconds: number;
}

/** Which runs are compared, over which of their features. */
export interface CompareRequest {
  /** Names of `FolderItem`s. */
  readonly left: string;
  readonly right: string;
  readonly split: Split;
  /** A feature counts as one of a run's where its rank at its site is at most this. */
  readonly top: number;
}

/** A feature that is among the strongest of one run or of both. Effects are in logits, mean over the run's pairs; null where it has no row. */
export interface ComparedFeature {
  readonly feature: number;
  readonly left: number | null;
  readonly right: number | null;
  readonly left_rank: number | null;
  readonly right_rank: number | null;
  readonly in: "both" | "left" | "right";
}

export interface ComparedSite {
  readonly site: SiteName;
  /** How many are among the strongest of both, of the left run alone, of the right run alone. */
  readonly counts: Readonly<Record<ComparedFeature["in"], number>>;
  /** Pearson correlation of the effects of all features with a row in both; null for fewer than two. */
  readonly correlation: number | null;
  /** The largest |effect| in either run first. */
  readonly features: readonly ComparedFeature[];
}

export interface RunsCompared {
  readonly sites: readonly ComparedSite[];
  /** Sites that cannot be compared, with the reason. */
  readonly apart: readonly { readonly site: SiteName; readonly reason: string }[];
  /** What a reader has to know, as that the models differ. */
  readonly notes: readonly string[];
}

/** A run that is to be made in the folder: of a task, or of pairs that are typed. */
export interface RunStart {
  /** The new folder's name. */
  readonly name: string;
  /** The id of a `ModelChoice`. */
  readonly model: string;
  readonly method: MethodName;
  readonly of: { readonly task: TaskName; readonly num_examples: number } | { readonly pairs: readonly TypedPair[] };
}

/** A run that was started here. */
export interface RunState {
  readonly id: string;
  /** The folder's name. */
  readonly name: string;
  readonly status: "running" | "finished" | "stopped" | "failed";
  /** What it does now, and how much of it is done, from 0 to 1. */
  readonly phase: string;
  readonly share: number;
  readonly seconds: number;
  /** What it told, the last lines. */
  readonly lines: readonly string[];
  /** Why it failed or stopped. */
  readonly error: string | null;
}

/** What the page asks for, and what it gets, by method and address behind `/api/`. Requests with GET are flat: their fields are the address's parameters. */
export interface Endpoints {
  "GET folder": { request: Record<never, never>; response: FolderListing };
  "GET rows": { request: RowsRequest; response: RowsPage };
  "GET compare": { request: CompareRequest; response: RunsCompared };
  "GET live": { request: Record<never, never>; response: LiveState };
  "POST live/effects": { request: EffectsRequest; response: LiveAnswer & LiveFound };
  "POST live/intervene": { request: InterveneRequest; response: LiveAnswer & Intervened };
  "POST live/circuit": { request: CircuitRequest; response: LiveAnswer & { readonly circuit: ReportCircuit } };
  "POST live/save": { request: { readonly id: string; readonly name: string }; response: { readonly file: string } };
  "GET work": { request: Record<never, never>; response: { readonly runs: readonly RunState[] } };
  "POST work/start": { request: RunStart; response: RunState };
  "POST work/stop": { request: { readonly id: string }; response: RunState };
}

export type EndpointName = keyof Endpoints;
export type RequestOf<N extends EndpointName> = Endpoints[N]["request"];
export type ResponseOf<N extends EndpointName> = Endpoints[N]["response"];

/** The answer where a request is refused or fails. */
export interface Problem {
  /** One line: what was expected, what was got, what to do. */
  readonly error: string;
}
