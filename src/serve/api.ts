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

/** What the page asks for, and what it gets, by method and address behind `/api/`. Requests with GET are flat: their fields are the address's parameters. */
export interface Endpoints {
  "GET folder": { request: Record<never, never>; response: FolderListing };
}

export type EndpointName = keyof Endpoints;
export type RequestOf<N extends EndpointName> = Endpoints[N]["request"];
export type ResponseOf<N extends EndpointName> = Endpoints[N]["response"];

/** The answer where a request is refused or fails. */
export interface Problem {
  /** One line: what was expected, what was got, what to do. */
  readonly error: string;
}
