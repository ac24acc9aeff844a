// A live subscriber: node live.mjs URL SAMPLE_EVERY EVENTS_MAX. Watches all runs, keeps the accounts of WIRE.md, and tells
// them behind the tick that follows the end of a run.
import { Subscriber } from "zeromq";
import { Control } from "./control.mjs";
import { PROTOCOL, hex, monoNs, readBatch, resolve, say, unpack } from "./wire.mjs";

const [url, every, eventsMax] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const SILENT_BEATS = 5, policy = [eventsMax, 60_000, every > 1 ? "sample" : "drop_oldest", every];
const sources = new Map(); // stream and kind: its account
const dropped = {}; // events by reason
let token, socket, number = 0, received = 0, beatsSince = 0, ended = false;
const sum = (counts) => Object.values(counts).reduce((one, other) => one + other, 0);
const lost = () => number - received - sum(dropped);

const control = new Control(url, {
  redial: () => { socket?.close(); token = undefined; },
  greet() {
    control.answered(); // once on each connection: WHO asks for it again
    control.send("watch", PROTOCOL, "peer", null, null, policy);
  },
  beat() {
    control.send("watch_beat", monoNs(), received, Math.max(lost(), 0));
    if (token && ++beatsSince > SILENT_BEATS) control.redial(), control.dial();
  },
  hear: (name, items) => hearing[name]?.(...items),
});

const hearing = {
  watching(_, newToken, endpoints, granted) {
    if (token?.equals(newToken)) return;
    say({ watching: hex(newToken), granted });
    [token, number, received, beatsSince] = [newToken, 0, 0, 0]; // the account of the broker's numbers begins again
    for (const reason in dropped) delete dropped[reason];
    socket?.close();
    socket = new Subscriber({ linger: 0, receiveHighWaterMark: 128, maxMessageSize: 8 * 2 ** 20 + 65_536 });
    socket.connect(resolve(endpoints[4], url));
    socket.subscribe(newToken);
    take(socket);
  },
  who: () => control.restart(),
};

async function take(from) {
  for await (const [, delivery, frame] of from) {
    beatsSince = 0;
    const [newest, drops = []] = unpack(delivery);
    for (const [reason, kind, stream, events, reached = 0] of drops) {
      dropped[reason] = (dropped[reason] ?? 0) + events;
      if (kind) account(stream, kind, { dropped: events, newest: reached });
    }
    number = newest;
    if (!frame.length && ended) tell();
    if (frame.length) received += frame.readUInt32BE(58); // also those of a batch that cannot be read
    try {
      if (frame.length) receive(readBatch(frame));
    } catch (error) {
      say({ refused: error.message });
    }
  }
}

function receive({ stream, records, counter }) {
  if (received === records.length) say({ first: counter });
  for (const [kind, , ...fields] of records.map(unpack)) {
    account(stream, kind, { received: 1 });
    if (kind === "overflow") account(stream, fields[2], { dropped: fields[3], newest: fields[5] ?? 0 });
    if (kind === "run_heartbeat") for (const of in fields[5]) account(stream, of, { newest: fields[5][of] });
    ended ||= kind === "run_completed";
  }
  account(stream, unpack(records[0])[0], { newest: counter });
}

/** Of a source: what came, what was told as dropped, and its newest number; what was before its first word is not missing. */
function account(stream, kind, { received = 0, dropped = 0, newest = 0 }) {
  const key = `${hex(stream)} ${kind}`, one = sources.get(key) ?? { received: 0, dropped: 0, newest: 0, before: null };
  sources.set(key, one);
  one.received += received;
  one.dropped += dropped;
  one.newest = Math.max(one.newest, newest);
  if (newest) one.before ??= one.newest - one.received - one.dropped;
}

function tell() {
  ended = false;
  const accounts = [...sources].map(([key, one]) => {
    const [stream, kind] = key.split(" ");
    return { stream, kind, ...one, lost: one.newest - one.before - one.received - one.dropped };
  });
  say({ number, received, dropped, lost: lost(), accounts });
}

process.stdin.on("end", () => control.end().then(() => process.exit())).resume();
