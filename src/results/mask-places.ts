import { type MaskPlaces, maskStatesSchema } from "../interventions/mask-states.ts";
import { readJsonFile, writeFileAtomic } from "../storage/files.ts";

/** Masks in the making in one file, written whole or not at all. */
export const maskPlaces = (path: string): MaskPlaces => ({
  async read() {
    const stored = await readJsonFile(path).catch(() => null);
    return maskStatesSchema.safeParse(stored).data;
  },
  write: (states) => writeFileAtomic(path, JSON.stringify(states)),
});
