import type { Ablation } from "../../src/circuit/meaning.ts";
import type { ReportData } from "../../src/report/data.ts";
import { number, signed, whole } from "../../src/report/format.ts";
import { CaseName, Scroll, Section } from "../controls.tsx";
import { ShareCell } from "./share.tsx";

/** What single features stand for, and whether the model needs them. */
export function MeaningSection({ data }: { data: ReportData }) {
  const { meaning } = data;
  return (
    <Section id="meaning" title="What do they mean?">
      {meaning === null ? (
        <p class="empty">Not measured for this run.</p>
      ) : (
        <>
          <Firing meaning={meaning} />
          {meaning.ablations.map((ablation) => (
            <After key={ablation.label} ablation={ablation} />
          ))}
        </>
      )}
    </Section>
  );
}

function Firing({ meaning }: { meaning: Ablation }) {
  const groups = [...new Set(meaning.features.flatMap((row) => row.fires.map((f) => `${f.group}, ${f.split}`)))];
  return (
    <>
      <p>
        Share of {meaning.members} on which a feature is active at all (code above 0), with the mean code. AUC is the
        probability that a random member of the named group has the larger code than one of another group: at 1 the
        feature tells them apart, at 0.5 it says nothing. No AUC is given where the group, or the others, have fewer
        than five members.
      </p>
      <Scroll label="Share of tokens on which each feature fires">
        <table class="numbers firing">
          <thead>
            <tr>
              <th scope="col">Feature</th>
              <th scope="col">effect</th>
              {groups.map((group) => (
                <th key={group} scope="col">
                  {group}
                </th>
              ))}
              <th scope="col">AUC</th>
            </tr>
          </thead>
          <tbody>
            {meaning.features.map((row) => {
              const told = row.fires.reduce((best, f) => ((f.auc ?? 0) > (best?.auc ?? 0) ? f : best), row.fires[0]);
              const auc = told?.auc ?? null;
              return (
                <tr key={`${row.site}/${row.feature}`}>
                  <th scope="row">
                    {row.site}/{row.feature}
                  </th>
                  <td>{signed(row.effect)}</td>
                  {groups.map((group) => {
                    const fires = row.fires.find((f) => `${f.group}, ${f.split}` === group);
                    if (fires === undefined) return <td key={group}>–</td>;
                    return (
                      <ShareCell
                        key={group}
                        share={fires.share}
                        title={`n = ${whole(fires.n)}, mean code ${number(fires.mean)}`}
                      >
                        {" "}
                        <small>({number(fires.mean)})</small>
                      </ShareCell>
                    );
                  })}
                  <td>
                    {auc === null ? "–" : auc >= 0.95 ? <b>{auc.toFixed(3)}</b> : auc.toFixed(3)}{" "}
                    {auc !== null && <small>{told!.group}</small>}
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

function points(share: number): string {
  return `${share < 0 ? "−" : ""}${Math.abs(100 * share).toFixed(1)} points`;
}

function After({ ablation }: { ablation: Ablation["ablations"][number] }) {
  return (
    <>
      <h3>Without {ablation.label}</h3>
      <p>
        Accuracy when the codes of{" "}
        {ablation.features.length === 1 ? "one feature" : `${ablation.features.length} features`} are set to{" "}
        {ablation.value === "zero" ? "0" : "their mean"}: <span class="names">{ablation.features.join(", ")}</span>.
      </p>
      <Scroll label={`Accuracy without ${ablation.label}`}>
        <table class="numbers">
          <thead>
            <tr>
              <th scope="col">Case</th>
              <th scope="col">split</th>
              <th scope="col">pairs</th>
              <th scope="col">before</th>
              <th scope="col">after</th>
              <th scope="col">change</th>
            </tr>
          </thead>
          <tbody>
            {ablation.accuracy.map((row) => (
              <tr key={`${row.split} ${row.case}`}>
                <th scope="row">
                  <CaseName name={row.case} />
                </th>
                <td class="text">{row.split}</td>
                <td>{whole(row.n)}</td>
                <ShareCell share={row.before} alarmBelow={0.8} />
                <ShareCell share={row.after} alarmBelow={0.8} />
                <td>{points(row.after - row.before)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}
