// A durable subscriber that is not required: node durable.mjs URL NAME. Takes each event once, from the broker or, where
// SKIPPED says so, from the store, and tells which; it ends when its standard input does.
import { Subscriber } from "zeromq";
import { Control } from "./control.mjs";
import { Query } from "./query.mjs";
import { GAP, PROTOCOL, hex, monoNs, readBatch, resolve, say } from "./wire.mjs";

const [url, name] = process.argv.slice(2), SILENT_MS = 5000, PAGE = 500;
const streams = new Map(); // hex of the stream: { id, expected, ahead: batches behind a hole, reading }
let instance, token, socket, store, came = 0, cameAt = 0, events = 0;
const counts = {};
const count = (what, many = 1) => (counts[what] = (counts[what] ?? 0) + many);
const streamOf = (id) => streams.get(hex(id));
const mark = ({ id, expected }) => [id, expected - 1];

const control = new Control(url, {
  redial: () => socket?.close(),
  greet() {
    control.answered(); // once on each connection: WHO asks for it again
    control.send("attach", PROTOCOL, name, null, `memory of ${process.pid}`);
  },
  beat: () => control.send("durable_beat", monoNs(), events),
  hear: (name, items) => hearing[name]?.(...items),
});

const hearing = {
  attached(from, newToken, endpoints, required) {
    if (endpoints[2]) useStore(resolve(endpoints[2], url));
    if (token?.equals(newToken) && !socket.closed) return; // said again until it is subscribed to
    say({ attached: hex(newToken), required });
    [instance, token, came, cameAt] = [from, newToken, 0, Date.now()];
    socket?.close();
    socket = new Subscriber({ linger: 0, receiveHighWaterMark: 64, maxMessageSize: 8 * 2 ** 20 + 65_536 });
    socket.connect(resolve(endpoints[1], url));
    socket.subscribe(newToken);
    take(socket);
  },
  ask(from, infos) {
    for (const [id] of infos) if (!streamOf(id)) streams.set(hex(id), { id, expected: 1, ahead: [], reading: false });
    control.send("marks", from, infos.map(([id]) => mark(streamOf(id))));
  },
  skipped: (_, marks) => marks.forEach(([id, seq]) => streamOf(id) && read(streamOf(id), seq)),
  status: (_, endpoints) => endpoints[2] && useStore(resolve(endpoints[2], url)),
  who: () => control.restart(),
  alive(from, _echo, _wall, sent = 0) {
    if (sent > came && Date.now() - cameAt > SILENT_MS) control.redial(), control.dial();
  },
};

async function take(from) {
  for await (const [, frame] of from) {
    [came, cameAt] = [came + 1, Date.now()];
    try {
      const batch = readBatch(frame), stream = streamOf(batch.stream);
      if (!batch.session.equals(instance)) count("of another instance");
      else if (!stream) count("unknown");
      else if (batch.last < stream.expected) count("duplicate");
      else stream.ahead.push(batch), settle(stream);
    } catch (error) {
      count(error.message);
    }
  }
}

/** Takes of what waits all that follows without a hole, and reports it. */
function settle(stream) {
  const before = stream.expected;
  stream.ahead.sort((one, other) => one.first - other.first);
  while (stream.ahead.length && stream.ahead[0].first <= stream.expected) {
    const { last, flags } = stream.ahead.shift();
    if (last < stream.expected) continue;
    count(flags & GAP ? "gaps" : "pushed", last + 1 - stream.expected);
    stream.expected = last + 1;
  }
  if (stream.expected === before) return;
  events += stream.expected - before;
  control.send("stored", instance, [mark(stream)]);
  say({ stream: hex(stream.id), stored: stream.expected - 1, ...counts });
}

async function read(stream, upTo) {
  if (!store) return control.send("status?"); // SKIPPED comes again, and by then it is known where the store is
  if (stream.reading || upTo < stream.expected) return;
  stream.reading = true;
  try {
    while (stream.expected <= upTo) {
      const { rows, last } = await store.ask("stream_since", stream.id, stream.expected - 1, PAGE);
      if (last < stream.expected) break;
      count("read", rows.filter((row) => row[5] >= stream.expected && row[5] <= last).length);
      stream.ahead.push({ first: stream.expected, last: stream.expected - 1, flags: 0 });
      events += last + 1 - stream.expected;
      stream.expected = last + 1;
    }
    control.send("stored", instance, [mark(stream)]);
    say({ stream: hex(stream.id), stored: stream.expected - 1, ...counts });
    settle(stream);
  } catch (error) {
    count(`query ${error.message}`);
  }
  stream.reading = false;
}

function useStore(endpoint) {
  store?.close();
  store = new Query(endpoint);
}

process.stdin.on("end", () => process.exit()).resume();
