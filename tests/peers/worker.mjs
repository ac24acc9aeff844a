// A worker: node worker.mjs URL RUN STEPS [LOSE [watched]]. Emits a run of so many steps, and ends when all of it is
// acknowledged. It loses its batch number LOSE on purpose, as a network may, and must be rewound; 0 for none. It begins its
// steps when it may send, or with `watched` when somebody watches.
import { randomBytes } from "node:crypto";
import { XPublisher } from "zeromq";
import { Control } from "./control.mjs";
import { LiveFeed } from "./livefeed.mjs";
import {
  GAP, HEADER_BYTES, NdArray, PROTOCOL, hex, monoNs, pack, packBatch, record, resolve, say, wallNs,
} from "./wire.mjs";

const KIB = 1024, COUNT_BYTES = 256, EVENTS_MAX = 4096, STALL_MS = 5000, A_TURN = 20, EPISODE_STEPS = 100;
const [url, run, steps, lose, watched] = process.argv.slice(2);
const stream = randomBytes(16), agent = "agent_0", startedNs = wallNs();
let held = [], acked = 0, head = 0, cursor = 1; // held[0] is the record of seq acked + 1
let phase = "greeting", instance, epoch = 0, creditNumber = -1, credit = 0, intervalMs = 20;
let flight = []; // [last seq, bytes] of each batch that is not acknowledged
let data, dataUrl, subscribed = false, sentAt = 0, movedAt = 0, closing = false, sending = false;
let emitted = 0, rewinds = 0, batches = 0;

const info = [stream, run, "node", agent, startedNs, "agent", null, process.pid, "node", pack({ language: "javascript" })];
const feed = new LiveFeed(run, stream);
const emit = (kind, ...fields) => {
  held.push(record([kind, ++head, ...fields]));
  feed.offer(kind, head, held.at(-1));
};
const clocks = () => [wallNs(), monoNs()];
const inFlight = () => flight.reduce((sum, [, bytes]) => sum + bytes, 0);
const backlog = () => held.reduce((sum, one) => sum + one.length, 0);

function emitSteps() {
  if (!emitted && !(watched ? feed.watched : subscribed)) return;
  for (let turn = 0; turn < A_TURN && emitted < Number(steps); turn++, emitted++) {
    const [episode, index] = [Math.floor(emitted / EPISODE_STEPS), emitted % EPISODE_STEPS];
    const seen = Buffer.alloc(8);
    seen.writeFloatLE(emitted, 0);
    seen.writeFloatLE(index / 2, 4);
    const last = index === EPISODE_STEPS - 1;
    emit("step", agent, 0, episode, index, emitted, 0.5, last, false, ...clocks(), emitted % 4,
      new NdArray("<f4", [2], seen), "agent");
    if (last) emit("episode", agent, 0, episode, EPISODE_STEPS / 2, EPISODE_STEPS, emitted, ...clocks(), "terminated");
  }
  if (emitted < Number(steps) || closing) return;
  emit("run_completed", "completed", null, ...clocks(), emitted, Math.floor(emitted / EPISODE_STEPS));
  closing = true;
}

const control = new Control(url, {
  redial: () => { data?.close(); data = undefined; feed.close(); phase = "greeting"; },
  greet: () => control.send("hello", PROTOCOL, info, acked + 1, head),
  beat: () => phase !== "greeting" && control.send("beat", monoNs(),
    [[stream, acked + 1, head, backlog(), Math.max(credit, inFlight()), epoch, nextBytes(), feed.numbered]]),
  hear: (name, items) => hearing[name]?.(...items),
});

const ours = (from, of) => of.equals(stream) && instance?.equals(from) && phase === "streaming";
const hearing = {
  welcome(from, of, newEpoch, expected, bytes, ms, endpoints) {
    if (!of.equals(stream)) return;
    control.answered();
    [instance, phase] = [from, expected === null ? "waiting" : "streaming"];
    if (endpoints[3]) feed.open(resolve(endpoints[3], url), from);
    if (expected === null) return;
    if (!data) openData(resolve(endpoints[0], url));
    acknowledge(expected - 1);
    afresh(newEpoch, expected, bytes, ms);
  },
  rewind(from, of, newEpoch, expected, bytes) {
    if (ours(from, of) && newEpoch > epoch) afresh(newEpoch, expected, bytes, intervalMs, rewinds++);
  },
  credit(from, of, ofEpoch, bytes, ms, number = 0) {
    if (!ours(from, of) || ofEpoch !== epoch || number < creditNumber) return;
    [credit, intervalMs, creditNumber] = [bytes, ms, number];
  },
  ack: (from, of, seq) => ours(from, of) && acknowledge(seq),
  who: (from, of) => of.equals(stream) && greet(),
  alive(from, sentNs, brokerNs) {
    const now = monoNs();
    feed.clockOffsetNs = brokerNs + (now - BigInt(sentNs)) / 2n - wallNs();
    if (phase !== "greeting" && !instance.equals(from)) greet();
  },
  unheard: (from, of) => ours(from, of) && feed.connect(),
};

function greet() {
  phase = "greeting";
  control.restart();
}

function afresh(newEpoch, expected, bytes, ms) {
  [epoch, cursor, credit, intervalMs, creditNumber, flight, movedAt] = [newEpoch, expected, bytes, ms, -1, [], Date.now()];
}

function acknowledge(seq) {
  if (seq <= acked) return;
  held.splice(0, seq - acked);
  flight = flight.filter(([last]) => last > seq);
  [acked, cursor, movedAt] = [seq, Math.max(cursor, seq + 1), Date.now()];
  say({ acked, head });
  if (closing && acked >= head) end();
}

function openData(endpoint) {
  data?.close();
  const options = { linger: 0, noDrop: true, immediate: true, sendHighWaterMark: 64, maxMessageSize: 638 };
  const socket = (data = new XPublisher(options));
  [subscribed, dataUrl] = [false, endpoint];
  socket.connect(endpoint);
  (async () => {
    for await (const [frame] of socket) if (socket === data) subscribed = frame[0] === 1;
  })();
}

/** What the next event needs when it alone is too large for the credit. */
const nextBytes = () => {
  const next = held[cursor - acked - 1];
  return next && next.length + HEADER_BYTES + COUNT_BYTES > credit ? next.length + 512 : 0;
};

async function pump() {
  const stalled = phase === "streaming" && (flight.length || !subscribed) && Date.now() - movedAt > STALL_MS;
  if (stalled) {
    openData(dataUrl);
    greet();
  }
  if (phase !== "streaming" || !subscribed || sending || cursor > head) return;
  const gap = cursor <= acked; // a store that wants what is not held any more gets a gap in its place
  const room = credit - inFlight() - HEADER_BYTES - COUNT_BYTES;
  const whole = Math.min(Math.max(64 * KIB, Math.min(credit / 4, 256 * KIB)), credit - HEADER_BYTES - COUNT_BYTES);
  let [records, size] = [[], 0];
  const from = gap ? [record(["gap", cursor, acked, "no_longer_held", wallNs()])] : held.slice(cursor - acked - 1);
  for (const one of from) {
    if (records.length === EVENTS_MAX || (records.length && size + one.length > whole)) break;
    records.push(one);
    size += one.length;
  }
  const isWhole = records.length < from.length;
  if (size > room || !(isWhole || closing || gap || Date.now() - sentAt >= intervalMs)) return;
  const last = gap ? acked : cursor + records.length - 1;
  const batch = packBatch({ session: instance, stream, epoch, first: cursor, last, events: records.length,
    body: Buffer.concat(records), flags: gap ? GAP : 0 });
  flight.push([last, batch.length + COUNT_BYTES]);
  [cursor, sentAt, sending] = [last + 1, Date.now(), true];
  // A send that fails is on a socket that was closed: the epoch that follows sends the batch again.
  if (++batches !== Number(lose)) await data.send([stream, batch]).catch(() => {});
  sending = false;
}

async function end() {
  clearInterval(timer);
  await feed.flush("closing", head, 0);
  control.send("bye", stream, true);
  await control.end();
  data.close();
  feed.close();
  say({ done: acked, rewinds });
}

emit("run_started", run, "node", agent, ...clocks(), "agent", { language: "javascript" });
say({ stream: hex(stream) });
const timer = setInterval(() => {
  emitSteps();
  pump();
  feed.flush("running", head, backlog());
}, 5);
