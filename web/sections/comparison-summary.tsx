import type { Comparison } from "../../src/report/comparison.ts";
import { compact, lastPart, percent, whole } from "../../src/report/format.ts";
import { Figure, Findings, Warnings } from "../controls.tsx";
import { costAgainst, describeMethod, sameFeatures } from "../methods.ts";

/** What was compared and how it came out: the first method against each other one, in a sentence each. */
export function ComparisonSummary({ data }: { data: Comparison }) {
  const { dictionaries, methods } = data;
  const [first, ...others] = methods;
  const unfinished = "This comparison is not complete; what is missing may change the picture.";
  const warnings = data.status === "finished" ? data.warnings : [unfinished, ...data.warnings];
  const sites = dictionaries.sites.length;
  return (
    <header class="summary">
      {dictionaries.dummy && (
        <p class="banner" role="alert">
          <strong>Dummy dictionaries.</strong> The directions below are random, not trained features. Times, memory and
          whether methods agree can be read; which features they find says nothing about the model.
        </p>
      )}
      <p class="kicker">analytic-sfc comparison</p>
      <h1>
        {counted(methods.length)} to the features behind <em>{lastPart(data.task)}</em> in{" "}
        <span class="unbroken">{lastPart(data.model.name).replace(/\.gguf$/i, "")}</span>
      </h1>
      <dl class="figures">
        <Figure name="Pairs" value={whole(data.pairs)} note="train and test together" />
        <Figure
          name="Accuracy"
          value={data.accuracy === null ? "–" : percent(data.accuracy)}
          note="clean answer preferred"
        />
        <Figure
          name="Model"
          value={compact(data.model.parameters)}
          note={`parameters, ${data.model.model_type}, ${lastPart(data.model.name)}`}
        />
        <Figure
          name="SAE features"
          value={whole(dictionaries.features)}
          note={`at ${sites === 1 ? "1 site" : `${whole(sites)} sites`}, ${lastPart(dictionaries.source)}`}
        />
      </dl>
      <Warnings lines={warnings} />
      {first !== undefined && others.length > 0 && (
        <Findings
          label={`${first.name} against the others`}
          findings={others.map((other) => {
            const { claim, grounds } = sameFeatures(data, first, other);
            return { claim, grounds: `${grounds} ${costAgainst(first, other)}` };
          })}
        />
      )}
      <p class="lede">
        The methods had the same model, dictionaries and pairs. An effect is what a feature's change from the clean to
        the patch prompt does to <i>m</i> = logit(patch answer) − logit(clean answer), as a mean over all pairs, in
        logits; BOS and padding are left out.
      </p>
      <dl class="methods">
        {methods.map((method) => (
          <div key={method.name}>
            <dt>{method.name}</dt>
            <dd>{describeMethod(method)}</dd>
          </div>
        ))}
      </dl>
    </header>
  );
}

const words = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten"];

function counted(methods: number): string {
  return `${words[methods] ?? methods} ${methods === 1 ? "way" : "ways"}`;
}
