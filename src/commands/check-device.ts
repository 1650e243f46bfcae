import { parityTolerance } from "../analysis/options.ts";
import { compareWithCpu, type ParitySubject, refuseDifferent, shareOf } from "../analysis/parity.ts";
import type { Check } from "../circuit/checks.ts";
import { messageOf, StoppedError, UserError } from "../errors.ts";
import type { Reporter } from "../progress.ts";

/**
 * Compares the numbers of a device with the CPU's before work on it begins; of the CPU itself there is nothing to compare. Done anew by every command:
 * drivers change, and a few pairs take little.
 *
 * @returns what was compared, for the run's checks
 * @throws UserError if they differ by more than the tolerance, or the device does not run the model; StoppedError
 */
export async function checkDevice(
  subject: ParitySubject,
  tolerance: number | undefined,
  reporter: Reporter,
): Promise<Check[]> {
  const { device = "cpu" } = subject.loaded;
  if (device === "cpu") return [];
  const checks = await compareOnDevice(subject, tolerance, reporter);
  refuseDifferent(device, checks);
  return checks;
}

/** `compareWithCpu`, with what the device cannot do told as the user's to mend. */
export async function compareOnDevice(
  subject: ParitySubject,
  tolerance = parityTolerance,
  reporter: Pick<Reporter, "begin" | "set" | "stopped">,
): Promise<Check[]> {
  const { device = "cpu" } = subject.loaded;
  reporter.begin(`${device} against cpu`, 1);
  try {
    return await compareWithCpu(subject, tolerance, { onProgress: reporter.set, stopped: reporter.stopped });
  } catch (error) {
    if (error instanceof UserError || error instanceof StoppedError || messageOf(error).startsWith("internal:")) {
      throw error;
    }
    const [why] = messageOf(error).split("\n");
    throw new UserError(
      `--device ${device}: expected it to run the model, got an error of onnxruntime (${why}). Use --device cpu.`,
      { cause: error },
    );
  }
}

/** A line for a terminal: by how much each kind of a device's numbers differs from the CPU's, as a share of the largest, and where most; none of the CPU. */
export function deviceLines({ device, parity }: { readonly device: string; readonly parity: readonly Check[] }) {
  if (device === "cpu") return [];
  const parts = parity.map((one) => {
    const where = one.site === null ? "" : ` (${one.site})`;
    return `${one.name.split(" on ")[0]} ${shareOf(one).toExponential(1)}${where}${one.passed ? "" : ": too much"}`;
  });
  return [`${device}, furthest from the CPU in float64, as a share of the largest: ${parts.join(", ")}`];
}
