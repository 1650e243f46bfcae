import { bytesText, countText } from "../amounts.ts";
import { embeddedModel } from "../analysis/options.ts";
import type { PullOutcome } from "../commands/pull.ts";
import { textTable } from "../report/text-table.ts";
/** What `sfc pull` did, or would do: where everything is, or what there is to fetch. */
export function pullText({ embedded, planned, fetched, saes }: PullOutcome): string {
  return [
    ...(embedded ? [`${embeddedModel} is part of this package.`] : []),
    ...(planned === null ? [] : plannedLines(planned)),
    ...fetched.map(
      ({ id, files, bytes, folder }) => `${id}: ${countText(files, "file")}, ${bytesText(bytes)}, in ${folder}`,
    ),
    ...saes.map(({ name, preset }) => `SAEs for ${name}: sfc pull ${preset}; sfc models lists others.`),
  ].join("\n");
}

function plannedLines({ files, cache }: NonNullable<PullOutcome["planned"]>): string[] {
  const wanted = files.filter(({ cached }) => !cached);
  const rows = files.map(({ path, bytes, cached }) => [path, bytesText(bytes), cached ? "cached" : "to fetch"]);
  const bytes = wanted.reduce((sum, file) => sum + file.bytes, 0);
  return [
    ...textTable([["file", "size", "state"], ...rows]),
    "",
    `To fetch: ${countText(wanted.length, "file")}, ${bytesText(bytes)}, into ${cache}.`,
  ];
}
