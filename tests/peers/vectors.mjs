// Tells what the bytes of each vector say: node vectors.mjs FOLDER.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { hex, readBatch, say, unpack, unseal } from "./wire.mjs";

const readers = { control: unseal, batch };

function batch(bytes) {
  const { session, stream, records, ...numbers } = readBatch(bytes);
  return { ...numbers, session: hex(session), stream: hex(stream), records: records.map(unpack) };
}

for (const file of readdirSync(process.argv[2]).filter((name) => name.endsWith(".bin"))) {
  const path = join(process.argv[2], file);
  const { what } = JSON.parse(readFileSync(path.replace(/bin$/, "json"), "utf8"));
  const says = (readers[what] ?? unpack)(readFileSync(path));
  say({ name: file.slice(0, -4), says });
}
