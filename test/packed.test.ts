import { readFileSync } from "node:fs";
import { expect, it } from "vitest";

const { files } = JSON.parse(readFileSync("package.json", "utf8")) as { files: string[] };

it("links of the README lead somewhere in the package", () => {
  const readme = readFileSync("README.md", "utf8");
  const links = [...readme.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)]
    .map(([, to]) => to!)
    .filter((to) => !/^https?:/.test(to));
  expect(links.length).toBeGreaterThan(3);
  expect(links.filter((to) => !files.some((kept) => to === kept || to.startsWith(`${kept}/`)))).toEqual([]);
});

it("every package of the lock file has a checksum, those of other systems too", () => {
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8")) as {
    packages: Record<string, { integrity?: string }>;
  };
  const without = Object.entries(packages).filter(([path, { integrity }]) => path !== "" && !integrity);
  expect(without.map(([path]) => path)).toEqual([]);
});
