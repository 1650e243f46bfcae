import { type Capture, capture } from "../capture/capture.ts";
import { type Plan, planBatches, planCapture, type Wanted } from "../forest/packs.ts";
import type { SiteName } from "../site.ts";
import type { MethodInput } from "./method.ts";

/** Activations and gradients of the plain model for a method: those that it is given, or captured now. */
export async function captureFor(
  given: MethodInput,
  wanted: Wanted,
  sites: readonly SiteName[] = [...given.dictionaries.keys()],
): Promise<Capture> {
  const captured =
    given.captured ??
    (await capture(given, planFor(given, wanted), {
      onProgress: given.onProgress,
      stopped: given.stopped,
      sites,
    }));
  given.onMetric?.(captured.cleanMetric, captured.patchMetric);
  return captured;
}

/** The work on a forest: merged as it is, or in padded batches. */
export function planFor(
  { forest, batch, captured }: Pick<MethodInput, "forest" | "batch" | "captured">,
  wanted: Wanted,
): Plan {
  if (batch !== undefined) return planBatches(forest, { wanted, batch });
  return captured?.plan.wanted === wanted ? captured.plan : planCapture(forest, { wanted });
}
