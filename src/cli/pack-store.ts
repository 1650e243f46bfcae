import { join } from "node:path";
import { openFile } from "#file";
import { openSafetensors, writeSafetensors } from "../bytes/safetensors.ts";
import type { TensorFile } from "../bytes/tensor-file.ts";
import type { PackResult, PackStore } from "../capture/capture.ts";
import type { Floats } from "../capture/passes.ts";
import { writeFileAtomic } from "./files.ts";

/** Files kept open at a time. */
const mostOpen = 64;

/**
 * Keeps the results of packs as safetensors files in a folder: they take no memory, and an interrupted run goes on after the last of them.
 *
 * @param identity distinguishes these packs from those of other pairs or another model
 */
export function fileStore(folder: string, identity: string): PackStore & { close(): Promise<void> } {
  const open = new Map<number, Promise<TensorFile>>();
  const path = (pack: number) =>
    join(folder, `pack-${identity.slice(0, 16)}-${String(pack).padStart(4, "0")}.safetensors`);
  const file = async (pack: number) => {
    const known = open.get(pack);
    if (known) return known;
    if (open.size >= mostOpen) {
      const [oldest, tensors] = [...open][0]!;
      open.delete(oldest);
      await (await tensors).source.close();
    }
    const opened = openPack(path(pack));
    open.set(pack, opened);
    opened.catch(() => open.delete(pack));
    return opened;
  };
  const read = async (pack: number, name: string): Promise<Floats | undefined> => {
    const tensors = await file(pack);
    return tensors.tensors.has(name) ? tensors.read(name) : undefined;
  };
  return {
    // A file that cannot be read is run again like one that is not there.
    has: (pack) =>
      file(pack).then(
        () => true,
        () => false,
      ),
    async save(pack, { metric, x, g }: PackResult) {
      const tensors: [string, Floats][] = [["metric", metric]];
      for (const [site, rows] of x) tensors.push([`x/${site}`, rows]);
      for (const [site, rows] of g) tensors.push([`g/${site}`, rows]);
      const bytes = writeSafetensors(
        new Map(tensors.map(([name, data]) => [name, { shape: [data.length], data: data as Float32Array }])),
        { dtype: "F32" },
      );
      await writeFileAtomic(path(pack), bytes);
    },
    metric: async (pack) => (await read(pack, "metric"))!,
    rows: (pack, kind, site) => read(pack, `${kind}/${site}`),
    async close() {
      for (const tensors of open.values()) await (await tensors).source.close();
      open.clear();
    },
  };
}

async function openPack(path: string): Promise<TensorFile> {
  const source = await openFile(path);
  try {
    return await openSafetensors(source);
  } catch (error) {
    await source.close();
    throw error;
  }
}
