import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { parseSync } from "vite";
import { expect, it } from "vitest";

const src = fileURLToPath(new URL("../src", import.meta.url));

/** The functions and classes that a source text exports without a doc comment in front. Of one that is overloaded, the first declaration counts. */
function undocumented(file: string, source: string): string[] {
  const { program, comments } = parseSync(file, source);
  const documented = (start: number) =>
    comments.some(({ type, value, end }) => {
      return type === "Block" && value.startsWith("*") && end <= start && source.slice(end, start).trim() === "";
    });
  const seen = new Set<string>();
  return program.body.flatMap((statement) => {
    if (statement.type !== "ExportNamedDeclaration" || !statement.declaration) return [];
    return namesOf(statement.declaration).filter((name) => {
      const first = !seen.has(name);
      seen.add(name);
      return first && !documented(statement.start);
    });
  });
}

type Declaration = NonNullable<
  Extract<ReturnType<typeof parseSync>["program"]["body"][number], { type: "ExportNamedDeclaration" }>["declaration"]
>;

/** What a declaration declares that can be called: functions, classes, constants that are functions. */
function namesOf(declaration: Declaration): string[] {
  switch (declaration.type) {
    case "FunctionDeclaration":
    case "TSDeclareFunction":
    case "ClassDeclaration":
      return [declaration.id!.name];
    case "VariableDeclaration":
      return declaration.declarations.flatMap(({ id, init }) =>
        id.type === "Identifier" && /^(Arrow)?FunctionExpression$/.test(init?.type ?? "") ? [id.name] : [],
      );
    default:
      return [];
  }
}

it("every exported function and class has a doc comment", () => {
  const files = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((name) => /\.tsx?$/.test(name));
  expect(files.length).toBeGreaterThan(100);
  const missing = files.flatMap((file) =>
    undocumented(file, readFileSync(`${src}/${file}`, "utf8")).map((name) => `${file}: ${name}`),
  );
  expect(missing).toEqual([]);
});

it("one without would be seen", () => {
  const source = `
    /** Adds. */
    export function add(a: number, b: number): number;
    export function add(a: string, b: string): string;
    export function add(a: any, b: any) { return a + b; }
    // A line comment is none.
    export function bare() {}
    /* Nor is this. */
    export const arrow = () => 1;
    export const three = 3;
    /** Of the function before. */
    function own() {}
    export class Plain {}
    /** A class. */
    export class Fine {}`;
  expect(undocumented("a.ts", source)).toEqual(["bare", "arrow", "Plain"]);
});
