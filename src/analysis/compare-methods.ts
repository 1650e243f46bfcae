import { isIntegrated, type MethodName, methodNames, type Rule, takesSteps } from "../effects/method.ts";
import { UsageError } from "../errors.ts";

/** A method as `--methods` names it, with all that makes its numbers and its work differ from another's. */
export interface MethodSpec {
  /** As written: `analytic-ig@40-left:64`. */
  readonly name: string;
  readonly method: MethodName;
  /** Pairs per padded batch; null on the prefix forest. */
  readonly batch: number | null;
  /** Null for methods that are not integrated. */
  readonly steps: number | null;
  readonly rule: Rule | null;
}

/** Steps and rule of integrated methods whose names carry none. */
export interface Integration {
  readonly steps: number;
  readonly rule: Rule;
}

const written =
  /^(?<method>[a-z-]+?)(?:@(?:(?<steps>[1-9]\d{0,4})(?:-(?<both>midpoint|left))?|(?<rule>midpoint|left)))?(?::(?<batch>[1-9]\d{0,5}))?$/;

const form =
  "name[@steps-rule][:pairs per batch], as analytic, sfc:64, analytic-ig@40, sfc-ig@left or analytic-ig@40-left:16";

/**
 * The methods in a list like `analytic,sfc:64,analytic-ig@40-left`: names, for integrated ones `@` with steps, a rule or both, and `:N` for padded
 * batches of N pairs.
 *
 * @param otherwise steps and rule where a name carries none
 * @throws UsageError if one is unknown, wrongly written, or there twice
 */
export function parseMethods(text: string, otherwise: Integration): MethodSpec[] {
  const specs = text.split(",").map((part) => parseMethod(part.trim(), otherwise));
  const seen = new Map<string, string>();
  for (const { name, method, batch, steps, rule } of specs) {
    const key = JSON.stringify([method, batch, steps, rule]);
    const twin = seen.get(key);
    if (twin !== undefined) {
      const as = twin === name ? "twice" : `which is the same as ${twin}`;
      throw new UsageError(`--methods: expected each method once, got ${name} ${as}. Leave one out.`);
    }
    seen.set(key, name);
  }
  return specs;
}

function parseMethod(name: string, otherwise: Integration): MethodSpec {
  const groups = written.exec(name)?.groups;
  const method = methodNames.find((known) => known === (groups?.method ?? name.replace(/[@:].*$/, "")));
  if (method === undefined) {
    throw new UsageError(`--methods: expected some of ${methodNames.join(", ")}, got "${name}". Write ${form}.`);
  }
  if (groups === undefined) throw new UsageError(`--methods: expected ${form}, got "${name}". See sfc compare --help.`);
  const batch = groups.batch === undefined ? null : Number(groups.batch);
  if ((method === "exact" || method === "secant") && batch !== null) {
    throw new UsageError(`--methods: expected ${method} without a batch, got "${name}". It has none: write ${method}.`);
  }
  const integrated = isIntegrated(method);
  const rule = (groups.both ?? groups.rule) as Rule | undefined;
  if ((groups.steps !== undefined && !takesSteps(method)) || (rule !== undefined && !integrated)) {
    throw new UsageError(
      `--methods: expected steps on analytic-ig, sfc-ig and secant, and rules on the first two, got "${name}". Write ${name.replace(/@[^:]*/, "")}.`,
    );
  }
  return {
    name,
    method,
    batch,
    steps: integrated
      ? Number(groups.steps ?? otherwise.steps)
      : groups.steps === undefined
        ? null
        : Number(groups.steps),
    rule: integrated ? (rule ?? otherwise.rule) : null,
  };
}

/** The folder of a method's tables inside that of a comparison: its name, without the colon that some systems do not have in names. */
export const methodFolder = (name: string): string => name.replace(":", "-");

/** Names of methods in a list, whether or not this version knows them; none that could lead out of a folder. */
export function namesIn(methods: unknown): string[] {
  if (typeof methods !== "string") return [];
  return methods.split(",").filter((name) => /^[a-z][a-z-]*(@[a-z0-9-]+)?(:\d+)?$/.test(name));
}
