// The live side of a worker: what is watched goes out as it is emitted, each kind with its own numbers; what the pipe does
// not take is told as dropped.
import { XPublisher } from "zeromq";
import { LIVE, monoNs, packBatch, record, wallNs } from "./wire.mjs";

const HEARTBEAT_MS = 1000, BATCH_BYTES = 64 * 1024;

export class LiveFeed {
  constructor(run, stream) {
    this.topics = Buffer.from(`${run}\0`);
    Object.assign(this, { stream, wishes: new Map(), newest: {}, waiting: [], untold: [], beatAt: 0, clockOffsetNs: 0n });
  }

  open(endpoint, instance) {
    this.instance = instance;
    if (this.endpoint !== endpoint) this.connect(endpoint);
  }

  connect(endpoint = this.endpoint) {
    this.socket?.close();
    this.endpoint = endpoint;
    this.wishes.clear();
    const options = { linger: 200, sendTimeout: 0, noDrop: true, immediate: true };
    this.socket = new XPublisher({ ...options, sendHighWaterMark: 128, maxMessageSize: 638 });
    this.socket.connect(endpoint);
    this.listen(this.socket);
  }

  close() {
    this.socket?.close();
    this.socket = this.endpoint = undefined;
    this.wishes.clear();
  }

  async listen(socket) {
    for await (const [frame] of socket) {
      const prefix = frame.subarray(1);
      if (socket !== this.socket) return;
      if (frame[0] === 1) this.wishes.set(prefix.toString("latin1"), prefix);
      else this.wishes.delete(prefix.toString("latin1"));
    }
  }

  get watched() {
    const starts = (long, short) => long.subarray(0, short.length).equals(short);
    return [...this.wishes.values()].some((wish) => starts(this.topics, wish) || starts(wish, this.topics));
  }

  /** The newest numbers of all kinds together; 0 while nobody asks. */
  get numbered() {
    return this.watched ? Object.values(this.newest).reduce((one, other) => one + other, 0) : 0;
  }

  /** An event that was just emitted. */
  offer(kind, seq, bytes) {
    if (!this.watched) return;
    this.newest[kind] = (this.newest[kind] ?? 0) + 1;
    let batch = this.waiting.filter((one) => one.kind === kind).at(-1);
    if (!batch || batch.size + bytes.length > BATCH_BYTES) {
      batch = { kind, first: seq, size: 0, records: [] };
      this.waiting.push(batch);
    }
    batch.records.push(bytes);
    Object.assign(batch, { last: seq, counter: this.newest[kind], size: batch.size + bytes.length });
  }

  /** Sends what waits; `state` is how the stream stands, for the heartbeat. */
  async flush(...state) {
    if (!this.socket || !this.watched || this.flushing) return;
    this.flushing = true;
    const batches = this.waiting;
    this.waiting = [];
    if (Date.now() - this.beatAt >= HEARTBEAT_MS) {
      this.beatAt = Date.now();
      batches.push(this.liveOnly("run_heartbeat", ...state, wallNs(), monoNs(), { ...this.newest }));
    }
    for (const batch of batches) {
      while (this.untold.length) {
        const { kind, records, counter } = this.untold[0];
        const told = ["worker", "worker_pipe_full", kind, records.length, wallNs(), counter];
        if (!(await this.send(this.liveOnly("overflow", ...told)))) {
          this.newest.overflow--;
          break;
        }
        this.untold.shift();
      }
      if (this.untold.length || !(await this.send(batch))) this.untold.push(batch);
    }
    this.flushing = false;
  }

  /** An event without a seq. It takes its number here: whatever becomes of it is sent or told. */
  liveOnly(kind, ...fields) {
    this.newest[kind] = (this.newest[kind] ?? 0) + 1;
    return { kind, first: 0, last: 0, counter: this.newest[kind], records: [record([kind, 0, ...fields])] };
  }

  /** Whether the pipe took it. */
  send({ kind, first, last, counter, records }) {
    const batch = packBatch({ session: this.instance, stream: this.stream, epoch: 0, first, last, events: records.length,
      body: Buffer.concat(records), flags: LIVE, counter, timeNs: wallNs() + this.clockOffsetNs });
    const sent = this.socket?.send([Buffer.concat([this.topics, Buffer.from(kind)]), batch]);
    return sent ? sent.then(() => true, () => false) : false;
  }
}
