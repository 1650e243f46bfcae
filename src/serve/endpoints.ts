import { z } from "zod";
import type { EndpointName, RequestOf, ResponseOf } from "./api.ts";
import { listFolder } from "./listing.ts";
import type { Places } from "./places.ts";

/** What answers are made from. */
export interface Context {
  readonly places: Places;
}

/** How an endpoint reads what it is asked, and answers. */
export interface Endpoint<N extends EndpointName> {
  /** Requests with GET come as texts. */
  readonly schema: z.ZodType<RequestOf<N>>;
  answer(request: RequestOf<N>, context: Context): Promise<ResponseOf<N>>;
}

/** All endpoints: one that is missing does not compile. */
export const endpoints: { readonly [N in EndpointName]: Endpoint<N> } = {
  "GET folder": { schema: z.strictObject({}), answer: (_, { places }) => listFolder(places) },
};
