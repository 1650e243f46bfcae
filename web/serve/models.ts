import type { LiveState } from "../../src/serve/api.ts";

/** What a model is called in a list of choices. */
export function modelText({ models }: LiveState, id: string): string {
  const { model, saes } = models.find((one) => one.id === id)!;
  return id === model ? id : `${id} (${model}${saes === null ? "" : `, ${saes}`})`;
}
