import { type Capture, capture } from "../capture/capture.ts";
import { type Plan, planBatches, planCapture, type Wanted } from "../forest/packs.ts";
import type { SiteName } from "../site.ts";
import type { MethodSetting } from "./method.ts";

/** Activations and gradients of the plain model for a method: those that the setting has, or captured now. */
export async function captureFor(
  setting: MethodSetting,
  wanted: Wanted,
  sites: readonly SiteName[] = [...setting.dictionaries.keys()],
): Promise<Capture> {
  const captured =
    setting.captured ??
    (await capture(setting, planFor(setting, wanted), {
      onProgress: setting.onProgress,
      stopped: setting.stopped,
      sites,
    }));
  setting.onMetric?.(captured.cleanMetric, captured.patchMetric);
  return captured;
}

/** The work of a setting: on its forest, or in padded batches. */
export function planFor(
  { forest, batch, captured }: Pick<MethodSetting, "forest" | "batch" | "captured">,
  wanted: Wanted,
): Plan {
  if (batch !== undefined) return planBatches(forest, { wanted, batch });
  return captured?.plan.wanted === wanted ? captured.plan : planCapture(forest, { wanted });
}
