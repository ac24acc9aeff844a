// Tells what the bytes of each vector say: node vectors.mjs FOLDER.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { hex, readBatch, say, unpack, unseal } from "./wire.mjs";

const readers = { control: unseal, batch: readBatch };

for (const file of readdirSync(process.argv[2]).filter((name) => name.endsWith(".bin"))) {
  const path = join(process.argv[2], file);
  const { what } = JSON.parse(readFileSync(path.replace(/bin$/, "json"), "utf8"));
  const says = (readers[what] ?? unpack)(readFileSync(path));
  if (what === "batch") Object.assign(says, { session: hex(says.session), stream: hex(says.stream), records: says.records.map(unpack) });
  say({ name: file.slice(0, -4), says });
}
