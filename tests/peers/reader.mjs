// A reader: node reader.mjs URL RUN. Tells each episode of a run, and each of its steps as it is stored.
import { Control } from "./control.mjs";
import { Query } from "./query.mjs";
import { hex, resolve, say, unpack } from "./wire.mjs";

const [url, run] = process.argv.slice(2), PAGE = 40;

const control = new Control(url, {
  greet: () => control.send("status?"),
  beat: () => {},
  hear: (name, [, endpoints]) => {
    if (name !== "status" || !endpoints[2]) return; // no store is attached yet: asked again after a wait
    control.answered();
    control.end();
    read(new Query(resolve(endpoints[2], url)));
  },
});

async function read(store) {
  const [[, , status]] = (await store.ask("runs", run, 0, 1)).rows;
  say({ run, status });
  for await (const [, stream, , , , , , , , outcome, stored] of store.pages((_, last) => ["streams", run, last ?? 0, PAGE]))
    say({ stream: hex(stream), outcome, stored });
  const agents = [...new Set((await store.ask("streams", run, 0, 2000)).rows.map((row) => row[4]))];
  for (const agent of agents) for await (const episode of episodesOf(store, agent)) {
    const [, , , , env, index, total, length] = episode;
    say({ agent, env, episode: index, total, length });
    const place = ["steps_of", run, agent, env, index];
    for await (const row of store.pages((row) => [...place, row && [unpack(row[11])[5], row[0]], PAGE]))
      say({ stream: hex(row[4]), seq: row[5], event: row[11], decoded: unpack(row[11]) });
  }
  store.close();
  say({ done: run });
}

const episodesOf = (store, agent) =>
  store.pages((row) => ["episodes_of", run, agent, row && [row[3], row[4], row[5], row[0]], PAGE]);
