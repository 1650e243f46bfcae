import { lastPart, seconds, whole } from "../../src/report/format.ts";
import type { FolderItem } from "../../src/serve/api.ts";
import { Scroll } from "../controls.tsx";
import { Waiting } from "../live/waiting.tsx";
import { layersOf } from "../select.ts";
import { useAnswer } from "./client.ts";
import { placeLink } from "./place.ts";

/** The runs and comparisons of the folder. */
export function FolderView() {
  const asked = useAnswer("GET folder", {});
  const { answer } = asked;
  return (
    <section class="section" aria-labelledby="runs-title">
      <h1 id="runs-title">Runs</h1>
      <Waiting asked={asked} what="the folder" />
      {answer && (
        <>
          <p class="names">{answer.folder}</p>
          {answer.items.length === 0 ? (
            <p class="empty">No run is here yet. sfc run makes one in outputs.</p>
          ) : (
            <Items items={answer.items} />
          )}
          {answer.problems.length > 0 && (
            <details>
              <summary>{whole(answer.problems.length)} cannot be shown</summary>
              <ul>
                {answer.problems.map(({ name, reason }) => (
                  <li key={name}>
                    <b>{name}</b>: {reason}
                  </li>
                ))}
              </ul>
            </details>
          )}
        </>
      )}
    </section>
  );
}

/** The address of a file in an item's folder. */
const fileLink = ({ name }: FolderItem, file: string) =>
  `/files/${[...(name === "." ? [] : name.split("/")), file].map(encodeURIComponent).join("/")}`;

function Items({ items }: { items: readonly FolderItem[] }) {
  return (
    <Scroll label="Runs and comparisons">
      <table class="numbers runs">
        <thead>
          <tr>
            <th scope="col">name</th>
            <th scope="col" class="text">
              status
            </th>
            <th scope="col" class="text">
              model
            </th>
            <th scope="col" class="text">
              task
            </th>
            <th scope="col" class="text">
              method
            </th>
            <th scope="col" class="text">
              sites
            </th>
            <th scope="col">pairs</th>
            <th scope="col">effects</th>
            <th scope="col">time</th>
          </tr>
        </thead>
        <tbody>
          {items.map((item) => (
            <tr key={item.name}>
              <th scope="row">
                {item.report ? <a href={fileLink(item, "report.html")}>{item.name}</a> : item.name}
                {item.dummy && <span class="note"> random directions</span>}
              </th>
              <td class="text">{item.kind === "comparison" ? `${item.status}, comparison` : item.status}</td>
              <td class="text">{lastPart(item.model)}</td>
              <td class="text">{lastPart(item.task)}</td>
              <td class="text">{item.method}</td>
              <td class="text">{layersOf(item.sites)}</td>
              <td>{whole(item.pairs)}</td>
              <td>
                {item.rows !== null && item.status === "finished" ? (
                  <a href={placeLink("rows", item.name)}>{whole(item.rows)}</a>
                ) : (
                  ""
                )}
              </td>
              <td>{seconds(item.seconds)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
