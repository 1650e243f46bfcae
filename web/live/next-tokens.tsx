import { percentOf, tokenText } from "../../src/report/format.ts";
import { Scroll } from "../controls.tsx";

/** Probabilities of tokens to come next, under two conditions. */
export function NextTokens(props: {
  columns: readonly [string, string];
  rows: readonly { readonly text: string; readonly shares: readonly [number, number] }[];
}) {
  const { columns, rows } = props;
  return (
    <Scroll label="Most probable next tokens">
      <table class="numbers next">
        <thead>
          <tr>
            <th scope="col">next token</th>
            {columns.map((name) => (
              <th scope="col" key={name}>
                {name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map(({ text, shares }) => (
            <tr key={text}>
              <th scope="row">{tokenText(text)}</th>
              {shares.map((share, i) => (
                <td key={columns[i]} class="share" style={{ "--share": share }}>
                  <span class="fill" />
                  <span class="over">{percentOf(share)}</span>
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
